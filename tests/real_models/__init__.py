"""Models of others, torchtitan's and Hugging Face's, switched as their users would.

``switched`` is the story, told once for every framework; ``whole`` is the oracle: a job's whole
state, in and out by hand. The tests in ``multiprocess`` say what a framework's job is made of.
"""
