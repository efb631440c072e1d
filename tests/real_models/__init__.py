"""Models of others, torchtitan's and Hugging Face's: their whole state, in and out by hand."""
