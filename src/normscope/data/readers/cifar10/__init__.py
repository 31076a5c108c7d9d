"""CIFAR-10: the publisher's archive of raw bytes, and a part of the set as JPEG files."""
