//! vlab: labs of QEMU guests on one Ethernet.
