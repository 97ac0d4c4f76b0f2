"""The best image of a registry for a host, a node or a cluster: chosen by what the images need."""
