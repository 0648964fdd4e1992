/** A workspace, a channel, a message, and the live stream that tells of it, by gRPC from Node. */
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { WorkspaceService } from "./generated/guildhall/membership/v1/workspace_service_pb.js";
import { ConversationService, Visibility } from "./generated/guildhall/messaging/v1/conversation_service_pb.js";
import { EventService } from "./generated/guildhall/messaging/v1/event_service_pb.js";
import { MessageService } from "./generated/guildhall/messaging/v1/message_service_pb.js";

const gateway = process.env.GUILDHALL_GATEWAY ?? "127.0.0.1:8080";

// A product's own back end would exchange its service key: AuthService.ExchangeServiceKey.
const token = execFileSync("guildhall", ["token", "you@example.com"], { encoding: "utf8" }).trim();
const signed: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${token}`);
  return next(request);
};
const transport = createGrpcTransport({ baseUrl: `http://${gateway}`, interceptors: [signed] });

const { workspace } = await createClient(WorkspaceService, transport).createWorkspace({ name: "Analytical Engines" });
if (!workspace) throw new Error("no workspace");
console.log("workspace", workspace.workspaceId, workspace.name);

const { workspaceId } = workspace;
const { conversation } = await createClient(ConversationService, transport).createChannel({
  workspaceId,
  name: "general",
  visibility: Visibility.PUBLIC,
});
if (!conversation) throw new Error("no channel");
console.log("channel", conversation.conversationId, conversation.name);

// The id is the sender's own: the same call again stores no second message.
const { conversationId } = conversation;
const messages = createClient(MessageService, transport);
const clientMessageId = randomUUID();
const sent = await messages.sendMessage({ workspaceId, conversationId, clientMessageId, text: "Note G is done." });
console.log(`sent ${sent.message?.seq} ${sent.message?.text}`);

const listed = await messages.listMessages({ workspaceId, conversationId });
for (const message of listed.messages) console.log(`listed ${message.seq} ${message.text}`);

// From before the first event on. The stream would go on for ever.
const leaving = new AbortController();
const stream = createClient(EventService, transport)
  .subscribe({ workspaceId, positions: [{ conversationId, eventSeq: 0n }] }, { signal: leaving.signal });
hearing: for await (const { frame } of stream) {
  for (const event of frame.case === "events" ? frame.value.events : []) {
    if (event.payload.case !== "messageCreated") continue;
    console.log(`heard ${event.eventSeq} ${event.payload.value.text}`);
    break hearing;
  }
}
leaving.abort();
