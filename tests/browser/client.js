// What a product's own page does: calls by gRPC-Web with generated code, and by JSON with fetch. Runs in the browser.

import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { AuthService } from "./generated/guildhall/identity/v1/auth_service_pb.js";
import { ConversationService, Visibility } from "./generated/guildhall/messaging/v1/conversation_service_pb.js";
import { EventService } from "./generated/guildhall/messaging/v1/event_service_pb.js";
import { MessageService } from "./generated/guildhall/messaging/v1/message_service_pb.js";

let token = "";

function transport(base) {
  const signed = (next) => (request) => {
    if (token) request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  return createGrpcWebTransport({ baseUrl: base, interceptors: [signed], defaultTimeoutMs: 5000 });
}

async function json(base, method, path, body) {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const answer = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, requestId: answer.headers.get("x-request-id"), body: await answer.json() };
}

async function nextMessage(frames) {
  for (;;) {
    const { value, done } = await frames.next();
    if (done) throw new Error("the stream is over");
    const events = value.frame.case === "events" ? value.frame.value.events : [];
    const created = events.find((event) => event.payload.case === "messageCreated");
    if (created) return created.payload.value;
  }
}

// The main job. Everything that comes back is plain data, for the test to judge.
async function story(base, email, password) {
  const calls = transport(base);
  const signedIn = await createClient(AuthService, calls).signIn({ email, password });
  token = signedIn.tokens.accessToken;
  const workspace = await json(base, "POST", "/v1/workspaces", { name: "From a browser" });
  const { workspaceId } = workspace.body.workspace;
  const channel = await createClient(ConversationService, calls).createChannel({
    workspaceId, name: "general", visibility: Visibility.PUBLIC,
  });
  const place = { workspaceId, conversationId: channel.conversation.conversationId };

  const leaving = new AbortController();
  const frames = createClient(EventService, calls)
    .subscribe({ workspaceId }, { signal: leaving.signal, timeoutMs: 30_000 })[Symbol.asyncIterator]();
  const opened = (await frames.next()).value.frame.case;

  const path = `/v1/workspaces/${workspaceId}/conversations/${place.conversationId}/messages`;
  const byJson = await json(base, "POST", path, { clientMessageId: crypto.randomUUID(), text: "By JSON" });
  const heardFirst = await nextMessage(frames);
  const byGrpcWeb = await createClient(MessageService, calls)
    .sendMessage({ ...place, clientMessageId: crypto.randomUUID(), text: "By gRPC-Web" });
  const heardSecond = await nextMessage(frames);
  const listed = await json(base, "GET", `${path}?pageSize=10`);
  leaving.abort();
  const left = await frames.next().then(() => "not left", (error) => error.rawMessage);

  return {
    opened, left,
    requestId: workspace.requestId,
    sent: [byJson.body.message.messageId, byGrpcWeb.message.messageId],
    heard: [heardFirst, heardSecond].map((message) => ({ id: message.messageId, text: message.text })),
    listed: listed.body.messages.map((message) => message.text),
  };
}

// A call that is refused, both ways: what a page learns of it.
async function refusals(base) {
  token = "";
  const calls = transport(base);
  const grpcWeb = await createClient(AuthService, calls).signIn({ email: "", password: "" }).catch((error) => error);
  const answer = await json(base, "POST", "/v1/auth:signIn", { email: "", password: "" });
  const decoder = new TextDecoder();
  return {
    code: grpcWeb.code,
    details: grpcWeb.details.map((detail) => `${detail.type} ${decoder.decode(detail.value)}`),
    status: answer.status,
    reasons: answer.body.details.map((detail) => detail.reason ?? ""),
  };
}

// What becomes of each kind of call; "answered" where the page could read the answer.
async function attempts(base) {
  token = "";
  const outcome = (promise) => promise.then(() => "answered", (error) => `${error.name}: ${error.message}`);
  return {
    simple: await outcome(fetch(`${base}/.well-known/jwks.json`).then((answer) => answer.json())),
    json: await outcome(json(base, "POST", "/v1/auth:signOut", {})),
    grpcWeb: await outcome(createClient(AuthService, transport(base)).getJwks({})),
  };
}

globalThis.guildhall = { story, refusals, attempts };
