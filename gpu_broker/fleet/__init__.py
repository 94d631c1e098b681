"""The fleet: the gRPC protocol between broker and node agents (``fleet.proto``) and its server."""
