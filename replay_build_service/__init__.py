"""The build service of Replay: from a link to an image, and from an image to a launch.

A process of its own, managed by the hub or deployed beside it. What each room is for, and who may import whom,
is told in ``docs/architecture.md``.
"""
