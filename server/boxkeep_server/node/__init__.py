"""The node: images, disks, network, runtimes, machines."""
