#!/usr/bin/env bash
# A workspace, a channel, a message, and the live stream that tells of it, with buf curl. Reflection is on: no protos needed.
set -euo pipefail
GATEWAY=${GUILDHALL_GATEWAY:-127.0.0.1:8080}
TOKEN=$(guildhall token you@example.com)

call() { # call METHOD REQUEST
  buf curl --protocol grpc --http2-prior-knowledge -H "authorization: Bearer $TOKEN" -d "$2" \
    "http://$GATEWAY/guildhall.$1"
}
field() { # field NAME: the first value of that name in JSON
  grep -o "\"$1\": \"[^\"]*\"" | head -n 1 | cut -d '"' -f 4
}

made=$(call membership.v1.WorkspaceService/CreateWorkspace '{"name": "Analytical Engines"}')
echo "$made"
workspace=$(field workspaceId <<<"$made")

made=$(call messaging.v1.ConversationService/CreateChannel \
  '{"workspaceId": "'"$workspace"'", "name": "general", "visibility": "VISIBILITY_PUBLIC"}')
echo "$made"
conversation=$(field conversationId <<<"$made")
place='"workspaceId": "'"$workspace"'", "conversationId": "'"$conversation"'"'

# The id is the sender's own: the same call again stores no second message.
call messaging.v1.MessageService/SendMessage \
  '{'"$place"', "clientMessageId": "'"$(cat /proc/sys/kernel/random/uuid)"'", "text": "Note G is done."}'

call messaging.v1.MessageService/ListMessages '{'"$place"'}'

# The stream begins after the position that the client has, here before the first event. It would go on for ever.
buf curl --timeout 10s --protocol grpc --http2-prior-knowledge -H "authorization: Bearer $TOKEN" \
  -d '{"workspaceId": "'"$workspace"'", "positions": [{"conversationId": "'"$conversation"'"}]}' \
  "http://$GATEWAY/guildhall.messaging.v1.EventService/Subscribe" 2>/dev/null || echo "the stream was ended after 10 s"
