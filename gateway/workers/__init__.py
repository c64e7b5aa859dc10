"""Several processes that serve as one: started and watched by their parent, and told of each other through it."""
