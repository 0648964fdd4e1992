#!/usr/bin/env bash
# A workspace, a channel, a message, and the live stream that tells of it, with grpcurl. Reflection is on: no protos needed.
set -euo pipefail
GATEWAY=${GUILDHALL_GATEWAY:-127.0.0.1:8080}
TOKEN=$(guildhall token you@example.com)

call() { # call METHOD REQUEST
  grpcurl -plaintext -H "authorization: Bearer $TOKEN" -d "$2" "$GATEWAY" "guildhall.$1"
}
field() { # field NAME: the first value of that name in JSON
  grep -o "\"$1\": \"[^\"]*\"" | head -n 1 | cut -d '"' -f 4
}

made=$(call membership.v1.WorkspaceService/CreateWorkspace '{"name": "Analytical Engines"}')
echo "$made"
workspace=$(field workspace_id <<<"$made")

made=$(call messaging.v1.ConversationService/CreateChannel \
  '{"workspaceId": "'"$workspace"'", "name": "general", "visibility": "VISIBILITY_PUBLIC"}')
echo "$made"
conversation=$(field conversation_id <<<"$made")
place='"workspaceId": "'"$workspace"'", "conversationId": "'"$conversation"'"'

# The id is the sender's own: the same call again stores no second message.
call messaging.v1.MessageService/SendMessage \
  '{'"$place"', "clientMessageId": "'"$(cat /proc/sys/kernel/random/uuid)"'", "text": "Note G is done."}'

call messaging.v1.MessageService/ListMessages '{'"$place"'}'

# The stream begins after the position that the client has, here before the first event. It would go on for ever.
grpcurl -plaintext -H "authorization: Bearer $TOKEN" -max-time 10 \
  -d '{"workspaceId": "'"$workspace"'", "positions": [{"conversationId": "'"$conversation"'"}]}' \
  "$GATEWAY" guildhall.messaging.v1.EventService/Subscribe 2>/dev/null || echo "the stream was ended after 10 s"
