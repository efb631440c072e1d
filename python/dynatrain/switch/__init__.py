"""One switch, from the call of all ranks to the new world."""
