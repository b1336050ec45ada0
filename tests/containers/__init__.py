"""A real container engine, a real registry and a base image, for tests on a machine that has no other.

Everything is made of Debian packages: no image is pulled and nothing of the machine's own engine is touched.
"""
