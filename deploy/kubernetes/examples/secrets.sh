#!/usr/bin/env bash
# The Secrets of a new installation that nobody gives you: keys, and the passwords of the database's roles.
#
#   secrets.sh NAMESPACE [flags of kubectl create …]      with --dry-run=client --output=yaml it only shows them
#
# It creates and never replaces: where there is such a Secret already, it says so and goes on with the next.
set -euo pipefail
namespace=${1:?usage: secrets.sh NAMESPACE [flags of kubectl create]}
shift

create=(kubectl --namespace "$namespace" create secret generic)

secret() { # secret NAME KEY FLAG…: with what comes in as the value of KEY, never on a command line that others can see
  local said
  if said=$("${create[@]}" "$1" --from-file="$2"=/dev/stdin "${@:3}" 2>&1 >&3); then
    if [[ -n $said ]]; then echo "$said" >&2; fi
    if [[ " $* " == *" --output=yaml "* ]]; then echo ---; fi
  elif [[ $said == *"already exists"* ]]; then
    echo "secret/$1 is there, and stays as it is"
  else
    echo "$said" >&2
    return 1
  fi
} 3>&1

for service in identity membership guest messaging; do
  for role in "$service" "${service}_owner"; do
    openssl rand -hex 32 | tr -d '\n' | secret "${role//_/-}-database" password \
      --type=kubernetes.io/basic-auth --from-literal=username="$role" "$@"
  done
  openssl rand -hex 32 | secret "$service-key" secret-key "$@"
done
openssl rand -base64 32 | tr +/ -_ | secret identity-provider-keys provider-keys "$@"
openssl genpkey -algorithm ed25519 | secret identity-signing-keys "$(date -u +%Y%m%dT%H%M%SZ).pem" "$@"
