#!/bin/bash
# Process 1 of a test host: gives the host files of its own, starts its sshd, and reaps its orphans for ever.
# It is started in namespaces of its own. Arguments: NAME, DISK (what the host keeps over a crash), SHARED (a folder
# that all hosts see), and the folders below /root and /tmp that stay visible.
set -eu
name=$1 disk=$2 shared=$3
shift 3

echo "$name" > /proc/sys/kernel/hostname
for tree in etc usr/local var; do # this machine's files, and in front of them what the host writes
    mount -t overlay "$name" -o "lowerdir=/$tree,upperdir=$disk/$tree,workdir=$disk/.overlay/$tree" "/$tree"
done
for folder in "$@"; do
    mkdir -p "$disk$folder"
    mount --rbind "$folder" "$disk$folder"
done
mount --bind "$shared" "$disk/srv/shared"
for tree in root srv tmp; do mount --rbind "$disk/$tree" "/$tree"; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
cat /proc/sys/kernel/random/uuid > "$disk/.boot_id" # each boot of a machine has a new one
mount --bind "$disk/.boot_id" /proc/sys/kernel/random/boot_id
# Else this host would keep the namespaces and files of all others alive after they are taken down.
for mounted in /run/netns $(awk '$2 ~ "^/run/ascendrun-testbed/[0-9]+$" { print $2 }' /proc/self/mounts); do
    umount --lazy "$mounted" || ! mountpoint --quiet "$mounted" # its owner may be faster
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
cd /

/usr/sbin/sshd
# Bash reaps whoever is orphaned, and waits here without a process: nobody ever writes to this pipe.
trap '' HUP INT TERM
mkfifo /run/never
while :; do read -r _ <> /run/never || true; done
