/** The adapter against a running Guildhall: GUILDHALL_URL is its gateway, GUILDHALL_SERVICE_KEY a service key. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { before, describe, test } from "node:test";
import type { AdapterAccount, AdapterUser } from "@auth/core/adapters";
import { GuildhallAdapter, GuildhallError } from "./guildhall-adapter.js";

const url = process.env.GUILDHALL_URL ?? "http://127.0.0.1:8080";
const serviceKey = process.env.GUILDHALL_SERVICE_KEY ?? "";
const adapter = GuildhallAdapter({ url, serviceKey });
const DAY = 24 * 60 * 60 * 1000;
const NOBODY = "01890000-0000-7000-8000-000000000000";

const address = () => `someone-${randomUUID().slice(0, 13)}@example.com`;
const proposed = (user: Partial<AdapterUser> = {}): AdapterUser =>
  ({ id: randomUUID(), email: address(), emailVerified: null, ...user });
const refused = (reason: string) => (error: unknown) => {
  assert.ok(error instanceof GuildhallError, String(error));
  assert.equal(error.reason, reason);
  return true;
};

function accountOf(user: AdapterUser, more: Partial<AdapterAccount> = {}): AdapterAccount {
  return { userId: user.id, type: "oidc", provider: "google", providerAccountId: randomUUID(), ...more };
}

async function startSession(user: AdapterUser, milliseconds = DAY) {
  const expires = new Date(Date.now() + milliseconds);
  return adapter.createSession({ sessionToken: randomUUID(), userId: user.id, expires });
}

describe("users", () => {
  let user: AdapterUser;
  const emailVerified = new Date("2026-01-02T03:04:05.678Z");

  before(async () => {
    user = await adapter.createUser(
      proposed({ name: "Ada", email: address().toUpperCase(), emailVerified, image: "https://example.com/ada" }),
    );
  });

  test("createUser returns what it was given, under an id of Guildhall's", () => {
    assert.match(user.id, /^[0-9a-f-]{36}$/);
    assert.equal(user.name, "Ada");
    assert.ok(user.emailVerified instanceof Date);
    assert.deepEqual(user.emailVerified, emailVerified);
    assert.equal(user.image, "https://example.com/ada");
  });

  test("createUser keeps null as null", async () => {
    const bare = await adapter.createUser(proposed());
    assert.deepEqual(bare, { id: bare.id, name: null, email: bare.email, emailVerified: null, image: null });
    assert.deepEqual(await adapter.getUser(bare.id), bare);
  });

  test("createUser refuses an address that somebody has", async () => {
    await assert.rejects(async () => adapter.createUser(proposed({ email: user.email })), refused("EMAIL_TAKEN"));
  });

  test("getUser finds by id, and nobody by an unknown one", async () => {
    assert.deepEqual(await adapter.getUser(user.id), user);
    for (const id of [NOBODY, "no/id of ours?", ""]) assert.equal(await adapter.getUser(id), null);
  });

  test("getUserByEmail finds without regard to case", async () => {
    assert.deepEqual(await adapter.getUserByEmail(user.email.toLowerCase()), user);
    assert.equal(await adapter.getUserByEmail(address()), null);
  });

  test("updateUser sets what it is given and leaves the rest", async () => {
    const updated = await adapter.updateUser({ id: user.id, name: "Countess", emailVerified: undefined });
    assert.deepEqual(updated, { ...user, name: "Countess" });
    assert.deepEqual(await adapter.updateUser({ id: user.id }), updated);
    const emptied = await adapter.updateUser({ id: user.id, name: null, image: null, emailVerified: null });
    assert.deepEqual(emptied, { ...user, name: null, image: null, emailVerified: null });
    const email = address();
    assert.equal((await adapter.updateUser({ id: user.id, email })).email, email);
    assert.equal((await adapter.getUserByEmail(email))?.id, user.id);
  });

  test("deleteUser takes everything along", async () => {
    const gone = await adapter.createUser(proposed({ name: "Ben" }));
    const account = accountOf(gone);
    await adapter.linkAccount(account);
    const session = await startSession(gone);
    assert.deepEqual(await adapter.deleteUser(gone.id), gone);
    for (const id of [gone.id, "no/id of ours?"]) assert.equal(await adapter.deleteUser(id), null);
    assert.equal(await adapter.getUser(gone.id), null);
    assert.equal(await adapter.getUserByAccount(account), null);
    assert.equal(await adapter.getSessionAndUser(session.sessionToken), null);
  });
});

describe("accounts", () => {
  test("linkAccount links, with what Guildhall keeps of it, and getUserByAccount finds its user", async () => {
    const user = await adapter.createUser(proposed());
    const kept = { expires_at: 1_800_000_000, token_type: "bearer" as const, scope: "openid", session_state: "s" };
    const secret = { access_token: "a", refresh_token: "r", id_token: "i" };
    const account = accountOf(user, kept);
    assert.equal(await adapter.getUserByAccount(account), null);
    const linked = await adapter.linkAccount({ ...account, ...secret, claim_of_the_provider: "x" });
    assert.deepEqual(linked, account);
    assert.deepEqual(await adapter.getUserByAccount(account), user);
  });

  test("linkAccount gives nobody the account of somebody else", async () => {
    const [ada, ben] = [await adapter.createUser(proposed()), await adapter.createUser(proposed())];
    const account = accountOf(ada);
    await adapter.linkAccount(account);
    const theft = async () => adapter.linkAccount({ ...account, userId: ben.id });
    await assert.rejects(theft, refused("ACCOUNT_LINKED_ELSEWHERE"));
  });

  test("unlinkAccount unlinks, but not the last way to sign in", async () => {
    const user = await adapter.createUser(proposed());
    const [github, google] = [accountOf(user, { provider: "github" }), accountOf(user)];
    await adapter.linkAccount(github);
    await adapter.linkAccount(google);
    assert.equal((await adapter.unlinkAccount(github))?.providerAccountId, github.providerAccountId);
    assert.equal(await adapter.unlinkAccount(github), undefined);
    await assert.rejects(async () => adapter.unlinkAccount(google), refused("LAST_CREDENTIAL"));
    assert.deepEqual(await adapter.getUserByAccount(google), user);
  });
});

describe("sessions", () => {
  let user: AdapterUser;

  before(async () => {
    user = await adapter.createUser(proposed({ name: "Ada" }));
  });

  test("createSession keeps the token, and getSessionAndUser finds both", async () => {
    const wanted = { sessionToken: randomUUID(), userId: user.id, expires: new Date(Date.now() + DAY) };
    assert.deepEqual(await adapter.createSession(wanted), wanted);
    assert.deepEqual(await adapter.getSessionAndUser(wanted.sessionToken), { session: wanted, user });
  });

  test("getSessionAndUser finds neither for an unknown token, nor after the end", async () => {
    assert.equal(await adapter.getSessionAndUser(randomUUID()), null);
    assert.equal(await adapter.getSessionAndUser((await startSession(user, -1)).sessionToken), null);
  });

  test("updateSession moves the end", async () => {
    const { sessionToken } = await startSession(user);
    const expires = new Date(Date.now() + 30 * DAY);
    const updated = await adapter.updateSession({ sessionToken, expires });
    assert.deepEqual(updated, { sessionToken, userId: user.id, expires });
    assert.deepEqual((await adapter.getSessionAndUser(sessionToken))?.session, updated);
    assert.deepEqual(await adapter.updateSession({ sessionToken }), updated);
    assert.equal(await adapter.updateSession({ sessionToken: randomUUID(), expires }), null);
  });

  test("deleteSession ends it", async () => {
    const session = await startSession(user);
    assert.deepEqual(await adapter.deleteSession(session.sessionToken), session);
    assert.equal(await adapter.deleteSession(session.sessionToken), null);
    assert.equal(await adapter.getSessionAndUser(session.sessionToken), null);
  });

  test("createAccessToken lets the app call Guildhall as the user, until the session ends", async () => {
    const { sessionToken } = await startSession(user);
    const { accessToken, expires } = await adapter.createAccessToken(sessionToken);
    const me = () => fetch(`${url}/v1/users/me`, { headers: { authorization: `Bearer ${accessToken}` } });
    const answer: any = await (await me()).json();
    assert.equal(answer.user.userId, user.id);
    assert.ok(expires.getTime() > Date.now());
    await adapter.deleteSession(sessionToken);
    assert.equal((await me()).status, 401);
    await assert.rejects(async () => adapter.createAccessToken(sessionToken), refused("SESSION_ENDED"));
  });
});

describe("verification tokens", () => {
  const fresh = (milliseconds = DAY) =>
    ({ identifier: address(), token: randomUUID(), expires: new Date(Date.now() + milliseconds) });

  test("createVerificationToken keeps a token, and useVerificationToken takes it away", async () => {
    const token = fresh();
    assert.deepEqual(await adapter.createVerificationToken(token), token);
    assert.equal(await adapter.useVerificationToken({ ...token, token: "another" }), null);
    assert.equal(await adapter.useVerificationToken({ ...token, identifier: address() }), null);
    assert.deepEqual(await adapter.useVerificationToken(token), token);
    assert.equal(await adapter.useVerificationToken(token), null);
  });

  test("useVerificationToken gives a token to one of many who use it at once", async () => {
    const token = fresh();
    await adapter.createVerificationToken(token);
    const used = await Promise.all(Array.from({ length: 16 }, () => adapter.useVerificationToken(token)));
    assert.deepEqual(used.filter(Boolean), [token]);
  });

  test("useVerificationToken finds nothing after the end", async () => {
    const token = fresh(-1);
    await adapter.createVerificationToken(token);
    assert.equal(await adapter.useVerificationToken(token), null);
  });
});

test("a wrong service key is refused", async () => {
  const stranger = GuildhallAdapter({ url, serviceKey: "ghk_of-nobody" });
  await assert.rejects(async () => stranger.getUser(NOBODY), refused("INVALID_CREDENTIALS"));
});
