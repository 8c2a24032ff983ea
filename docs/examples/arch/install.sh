#!/bin/bash
# Installs Arch Linux onto the guest's only disk, as the tutorial does by hand.
# The live ISO runs it: vlab hands it over as user data for cloud-init.
#
#   vlab disk create arch.qcow2 --size 8G
#   vlab install zero --iso archlinux-x86_64.iso --seed install.sh --done 'arch: installed'
#
# It changes nothing but that disk, and powers the live system down at its end.
set -eux
exec >/dev/ttyS0 2>&1

disk=/dev/vda
[ -b $disk ] || disk=/dev/sda

# One Linux partition over the whole disk: in fdisk n, four times Return, w.
printf '%s\n' n '' '' '' '' w | fdisk $disk
udevadm settle
mkfs.ext4 -q ${disk}1
mount ${disk}1 /mnt

# The base system. The tutorial installs `base grub`; a kernel became a package
# of its own since, netctl as well, and openssh is what `vlab ssh` talks to.
until ping -c 1 -W 2 archlinux.org >/dev/null; do sleep 1; done
pacman-key --init
pacman-key --populate
pacstrap /mnt base linux grub netctl dhcpcd openssh
genfstab -U /mnt >>/mnt/etc/fstab

# Locale and host name.
sed -i 's/^#en_US.UTF-8 UTF-8/en_US.UTF-8 UTF-8/' /mnt/etc/locale.gen
arch-chroot /mnt locale-gen
echo zero >>/mnt/etc/hostname

# The boot loader, with the serial console that `vlab console` shows.
arch-chroot /mnt grub-install --target=i386-pc $disk
sed -i 's/^GRUB_CMDLINE_LINUX_DEFAULT=.*/GRUB_CMDLINE_LINUX_DEFAULT="console=tty0 console=ttyS0"/; s/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=0/' \
    /mnt/etc/default/grub
arch-chroot /mnt grub-mkconfig -o /boot/grub/grub.cfg

# Networks: each clone is given its own profiles when it is made (configure =
# "offline", renderer = "netctl"); the base needs what they stand on.
arch-chroot /mnt systemctl enable sshd
echo 'PermitRootLogin prohibit-password' >/mnt/etc/ssh/sshd_config.d/10-vlab.conf
# Clones must not share what the base has of its own.
rm -f /mnt/etc/ssh/ssh_host_* /mnt/etc/machine-id
touch /mnt/etc/machine-id

umount /mnt
echo 'arch: installed'
poweroff
