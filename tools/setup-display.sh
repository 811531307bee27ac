#!/usr/bin/env bash
# Installs what tools/with-display needs, where that can be done without asking: as root on Debian or Ubuntu.
# Elsewhere the tests of the windows are skipped, and say so.
set -euo pipefail
cd "$(dirname "$0")"

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    if ! xargs dpkg --status <apt-packages.txt >/dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -qq --no-install-recommends <apt-packages.txt
    fi
fi
