"""Who is there and how they talk: members, their groups, control, lanes, and worlds on them."""
