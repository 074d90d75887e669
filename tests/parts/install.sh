#!/bin/sh
# Installs what the tests start for themselves and this machine lacks: RabbitMQ, Redis, Node, HAProxy, nginx and Chromium,
# from Debian's packages.
# Nothing is started as a system service.
set -eu

missing=""
command -v rabbitmq-server >/dev/null 2>&1 || [ -x /usr/sbin/rabbitmq-server ] || missing="$missing rabbitmq-server"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' >/dev/null 2>&1 || missing="$missing nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ] || missing="$missing haproxy"
command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || missing="$missing nginx"

# Another Chromium or Chrome may be named; a package that only fetches a snap leaves a chromium that does not start.
chromium_starts() { "${CALLTAG_TEST_CHROMIUM:-chromium}" --version 2>/dev/null | grep -q '^\(Chromium\|Google Chrome\) [0-9]'; }
no_chromium="The tests need a Chromium that starts from the command line; here '${CALLTAG_TEST_CHROMIUM:-chromium} --version' does not work.
Install one that is no snap (Debian's package chromium, or Chrome) and name it: make test CALLTAG_TEST_CHROMIUM=/path/to/chrome"
if ! chromium_starts; then
  if [ -n "${CALLTAG_TEST_CHROMIUM:-}" ] || command -v chromium >/dev/null 2>&1; then echo "$no_chromium" >&2; exit 1; fi
  missing="$missing chromium"
fi
[ -n "$missing" ] || exit 0

how="Install them with: apt-get install$missing"
command -v apt-get >/dev/null 2>&1 || { echo "The tests need$missing, and this machine has no apt-get. Install them and run make test again." >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root="sudo"; else
  echo "The tests need$missing, and installing them needs root. $how" >&2
  exit 1
fi

echo "Installing$missing from the distribution's packages (once) ..."
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  # Keeps the packages from starting their services on the default ports.
  printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
  $as_root chmod +x "$policy"
  trap '$as_root rm -f "$policy"' EXIT
fi
log=$(mktemp)
$as_root env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -q && apt-get install -q -y --no-install-recommends$missing" >"$log" 2>&1 || {
  tail -n 20 "$log" >&2
  echo "The installation failed. $how" >&2
  exit 1
}
rm -f "$log"
chromium_starts || { echo "$no_chromium" >&2; exit 1; }
