"""The extensions of the Bayeux protocol, each a module; what they share is `interface`."""
