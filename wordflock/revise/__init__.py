"""Revise a head that was solved in closed form: forget what is in it, or learn more, without any other client."""
