/**
 * An Auth.js database adapter that keeps users, accounts, sessions and verification tokens in Guildhall.
 *
 * Each function is one call of guildhall.identity.v1.AdapterService, as JSON through the gateway; what is left to do
 * here is to map names, dates and null. For servers only: it holds a service key.
 */
import { randomUUID } from "node:crypto";
import type { Adapter, AdapterAccount, AdapterSession, AdapterUser, VerificationToken } from "@auth/core/adapters";

export interface GuildhallOptions {
  /** The gateway, for example "http://127.0.0.1:8080". */
  url: string;
  /** The key of a service account with the scope identity.adapter. */
  serviceKey: string;
}

export interface GuildhallAdapter extends Required<Pick<Adapter, Functions>> {
  /** An access token for calling Guildhall's other services as the user of a session; it lasts 5 minutes. */
  createAccessToken(sessionToken: string): Promise<{ accessToken: string; expires: Date }>;
}

type Functions =
  | "createUser" | "getUser" | "getUserByEmail" | "getUserByAccount" | "updateUser" | "deleteUser"
  | "linkAccount" | "unlinkAccount"
  | "createSession" | "getSessionAndUser" | "updateSession" | "deleteSession"
  | "createVerificationToken" | "useVerificationToken";

/** Any other id was not made by Guildhall, and is nobody's. */
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** A refusal. `reason` is one of guildhall.identity.v1.ErrorReason, for example "EMAIL_TAKEN". */
export class GuildhallError extends Error {
  constructor(readonly status: number, readonly reason: string, message: string) {
    super(message);
    this.name = "GuildhallError";
  }
}

export function GuildhallAdapter(options: GuildhallOptions): GuildhallAdapter {
  const call = client(options);
  const change = (method: string, path: string, body: object) =>
    call(method, path, { ...body, requestId: randomUUID() });

  return {
    async createUser({ id: _proposed, ...user }) {
      return toUser((await change("POST", "/v1/adapter/users", fromUser(user))).user)!;
    },
    async getUser(id) {
      return ID.test(id) ? toUser((await call("GET", `/v1/adapter/users/${id}`)).user) : null;
    },
    async getUserByEmail(email) {
      return toUser((await call("POST", "/v1/adapter/users:findByEmail", { email })).user);
    },
    async getUserByAccount({ provider, providerAccountId }) {
      return toUser((await call("POST", "/v1/adapter/users:findByAccount", { provider, providerAccountId })).user);
    },
    async updateUser({ id, ...user }) {
      const updateMask = given(user, ["name", "email", "emailVerified", "image"]);
      if (!updateMask) return (await this.getUser(id))!;
      const path = `/v1/adapter/users/${encodeURIComponent(id)}`;
      return toUser((await change("PATCH", path, { ...fromUser(user), updateMask })).user)!;
    },
    async deleteUser(id) {
      if (!ID.test(id)) return null;
      return toUser((await call("DELETE", `/v1/adapter/users/${id}?request_id=${randomUUID()}`)).user);
    },

    async linkAccount(account) {
      return toAccount((await change("POST", "/v1/adapter/accounts", { account: fromAccount(account) })).account)!;
    },
    async unlinkAccount({ provider, providerAccountId }) {
      const answer = await change("POST", "/v1/adapter/accounts:unlink", { provider, providerAccountId });
      return toAccount(answer.account);
    },

    async createSession(session) {
      return toSession((await change("POST", "/v1/adapter/sessions", { session })).session)!;
    },
    async getSessionAndUser(sessionToken) {
      const answer = await call("POST", "/v1/adapter/sessions:find", { sessionToken });
      const session = toSession(answer.session);
      return session && { session, user: toUser(answer.user)! };
    },
    async updateSession(session) {
      const updateMask = given(session, ["expires", "userId"]);
      if (!updateMask) return (await this.getSessionAndUser(session.sessionToken))?.session ?? null;
      return toSession((await change("POST", "/v1/adapter/sessions:update", { ...session, updateMask })).session);
    },
    async deleteSession(sessionToken) {
      return toSession((await change("POST", "/v1/adapter/sessions:delete", { sessionToken })).session);
    },

    async createVerificationToken(verificationToken) {
      const answer = await change("POST", "/v1/adapter/verificationTokens", { verificationToken });
      return toVerificationToken(answer.verificationToken);
    },
    async useVerificationToken({ identifier, token }) {
      const answer = await change("POST", "/v1/adapter/verificationTokens:use", { identifier, token });
      return toVerificationToken(answer.verificationToken);
    },

    async createAccessToken(sessionToken) {
      const answer = await call("POST", "/v1/adapter/accessTokens", { sessionToken });
      return { accessToken: answer.accessToken, expires: new Date(answer.accessTokenExpireTime) };
    },
  };
}

/** Calls the gateway with an access token for the service key, which is exchanged again before the token ends. */
function client({ url, serviceKey }: GuildhallOptions) {
  let token: Promise<{ text: string; until: number }> | undefined;

  async function exchange() {
    const answer = await send(`${url}/v1/auth:exchangeServiceKey`, "POST", {}, { serviceKey });
    return { text: answer.accessToken as string, until: Date.parse(answer.accessTokenExpireTime) - 60_000 };
  }

  async function bearer(): Promise<string> {
    const held = await token?.catch(() => undefined);
    if (!held || held.until <= Date.now()) token = exchange();
    return (await token!).text;
  }

  return async (method: string, path: string, body?: object): Promise<any> =>
    send(url + path, method, { authorization: `Bearer ${await bearer()}` }, body);
}

/** One call. What nobody answered is repeated: a request id makes that safe where something changes. */
async function send(url: string, method: string, headers: Record<string, string>, body?: object): Promise<any> {
  const request = { method, headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body) };
  for (let tries = 1; ; tries++) {
    const response = await fetch(url, request).catch((error) => {
      if (tries === 3) throw error;
      return undefined;
    });
    if (response?.ok) return response.json();
    if (response && (response.status !== 503 || tries === 3)) throw await refusal(response);
    await new Promise((resolve) => setTimeout(resolve, 100 * tries));
  }
}

async function refusal(response: Response): Promise<GuildhallError> {
  const status: any = await response.json().catch(() => ({}));
  const reason = status.details?.find((detail: any) => detail.reason)?.reason ?? "";
  return new GuildhallError(response.status, reason, status.message ?? response.statusText);
}

/** The names of an update_mask: of these fields, those that are given. */
function given(from: object, fields: string[]): string {
  return fields.filter((field) => (from as Record<string, unknown>)[field] !== undefined).join(",");
}

function fromUser({ name, email, emailVerified, image }: Partial<AdapterUser>) {
  return { name, email, emailVerified, image };
}

function toUser(user: any): AdapterUser | null {
  if (!user) return null;
  return {
    id: user.id,
    name: user.name ?? null,
    email: user.email,
    emailVerified: user.emailVerified ? new Date(user.emailVerified) : null,
    image: user.image ?? null,
  };
}

/** Of what a provider sends, only what Guildhall keeps. */
function fromAccount(account: AdapterAccount) {
  const { userId, type, provider, providerAccountId, session_state } = account;
  return {
    userId, type, provider, providerAccountId,
    refreshToken: account.refresh_token,
    accessToken: account.access_token,
    idToken: account.id_token,
    expiresAt: account.expires_at,
    tokenType: account.token_type,
    scope: account.scope,
    sessionState: typeof session_state === "string" ? session_state : undefined,
  };
}

/** Without the tokens, which Guildhall does not give out again. */
function toAccount(account: any): AdapterAccount | undefined {
  if (!account) return undefined;
  const { userId, type, provider, providerAccountId } = account;
  return {
    userId, type, provider, providerAccountId,
    expires_at: account.expiresAt === undefined ? undefined : Number(account.expiresAt),
    token_type: account.tokenType,
    scope: account.scope,
    session_state: account.sessionState,
  };
}

function toSession(session: any): AdapterSession | null {
  return session ? { ...session, expires: new Date(session.expires) } : null;
}

function toVerificationToken(token: any): VerificationToken | null {
  return token ? { ...token, expires: new Date(token.expires) } : null;
}
