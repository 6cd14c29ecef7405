#!/bin/sh
# Installs what the tests' real systems need and a bare Debian 12 lacks. Run it as root.
# Kubernetes and Kueue are built from source besides, for which Go 1.25 or newer has to be on PATH
# (Debian's is older): https://go.dev/doc/install. So is its Node; the OpenID Connect issuer of the
# tests needs 20 or newer: https://nodejs.org/en/download
set -eu
export DEBIAN_FRONTEND=noninteractive
# Debian would start etcd, containerd, sshd, PostgreSQL, Samba as services: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -q
apt-get install -y -q --no-install-recommends \
    etcd-server containerd runc containernetworking-plugins debootstrap iptables iproute2 mount \
    openssl ca-certificates git openssh-client openssh-server faketime \
    openjdk-17-jdk-headless maven krb5-kdc krb5-admin-server krb5-user curl gcc libkrb5-dev \
    chromium chromium-driver fonts-dejavu wrk \
    postgresql-15 mariadb-server-core mariadb-client-core apache2-bin samba
