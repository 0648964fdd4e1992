#!/usr/bin/env bash
# A workspace, a channel and a message, as JSON with curl. Live streams are for gRPC and gRPC-Web.
set -euo pipefail
GATEWAY=${GUILDHALL_GATEWAY:-127.0.0.1:8080}
TOKEN=$(guildhall token you@example.com)

call() { # call METHOD PATH [JSON]
  curl --silent --show-error --fail-with-body --noproxy '*' --request "$1" "http://$GATEWAY$2" \
    --header "authorization: Bearer $TOKEN" --header "content-type: application/json" ${3:+--data "$3"} \
    --write-out '\n'
}
field() { # field NAME: the first value of that name in JSON
  grep -o "\"$1\": *\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4
}

made=$(call POST /v1/workspaces '{"name": "Analytical Engines"}')
echo "$made"
workspace=$(field workspaceId <<<"$made")

made=$(call POST "/v1/workspaces/$workspace/channels" '{"name": "general", "visibility": "VISIBILITY_PUBLIC"}')
echo "$made"
messages="/v1/workspaces/$workspace/conversations/$(field conversationId <<<"$made")/messages"

# The id is the sender's own: the same call again stores no second message.
call POST "$messages" '{"clientMessageId": "'"$(cat /proc/sys/kernel/random/uuid)"'", "text": "Note G is done."}'

call GET "$messages?pageSize=10"

# What is refused says why.
call POST /v1/workspaces '{"name": ""}' 2>/dev/null || echo "curl ended with $?"
