#!/usr/bin/env bash
# Boot what disk.sh has made, its console on standard output, until it powers itself off: boot.sh EMULATOR RUN
# EMULATOR is a Debian that has QEMU. In a mount namespace of its own.
set -euo pipefail

emulator=$1
run=$2
# An emulated processor is slow, and slower beside other work. Its clock counts instructions, one a nanosecond, and so is as
# slow: a second there has room for what it has room for on an ordinary host, and limits in seconds mean the same. With two
# processors that clock has not come through a boot.
speed=(-accel tcg,thread=single,tb-size=1024 -icount shift=0,sleep=on -cpu max,la57=off)
[ -z "${FRESH_KVM:-}" ] || speed=(-accel kvm -cpu host)

mount --rbind /dev "$emulator/dev"
mount --bind "$run" "$emulator/mnt"
rm -f "$emulator/etc/resolv.conf"
cp -L /etc/resolv.conf "$emulator/etc/resolv.conf"
exec chroot "$emulator" qemu-system-x86_64 "${speed[@]}" -rtc base=utc,clock=vm -machine q35 -smp 1 -m 5G -nographic -no-user-config \
  -kernel /mnt/kernel -initrd /mnt/initrd \
  -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=yes mitigations=off" \
  -drive file=/mnt/disk,if=virtio,format=raw,cache=unsafe,discard=unmap -nic user,model=virtio-net-pci
