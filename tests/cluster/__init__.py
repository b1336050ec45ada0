"""A real Kubernetes of one node, for tests on a machine that has no cluster.

Everything is made of Debian packages: no image is pulled from the world, and all that is started here ends here.
"""
