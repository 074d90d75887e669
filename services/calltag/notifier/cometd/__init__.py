"""CometD's transports around the Bayeux engine."""
