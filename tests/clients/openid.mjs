// An OpenID provider for tests, made with oidc-provider. Its argument is JSON: {port, key, callback, ttl_s}.
// Anybody may sign in under any name; "carol" is a supervisor and the others are agents, who have the voice feature.
import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import Provider from "oidc-provider";

const chosen = JSON.parse(process.argv[2]);
const issuer = `http://127.0.0.1:${chosen.port}`;
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const key = createPrivateKey(privateKey.export({ type: "pkcs8", format: "pem" })).export({ format: "jwk" });

function described(name) {
  const role = name === "carol" ? "supervisor" : "agent";
  return {
    preferred_username: name,
    given_name: name.toUpperCase(),
    realm_access: { roles: ["calltag-agent", `calltag-${role}`, "switch"] },
    features: "api-voice api-supervisor-monitoring",
    phones: name === "olga" ? ["15777"] : [],
  };
}

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...key, kid: chosen.key, use: "sig", alg: "RS256" }] },
  clients: [
    {
      client_id: "calltag",
      client_secret: "of the client",
      redirect_uris: [chosen.callback, "http://127.0.0.1/tests"],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
  ],
  cookies: { keys: ["of tests"] },
  claims: { profile: Object.keys(described("")) },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: `id-of-${id}`, ...described(id) }) }),
  extraTokenClaims: (_, token) => described(token.accountId ?? ""),
  features: {
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, audience) => ({
        scope: "openid profile",
        audience,
        accessTokenFormat: "jwt",
        accessTokenTTL: chosen.ttl_s,
        jwt: { sign: { alg: "RS256" } },
      }),
      useGrantedResource: () => true,
    },
  },
  ttl: { IdToken: chosen.ttl_s, Session: 600, Interaction: 600, Grant: 600 },
});
provider.on("server_error", (_, error) => console.error(error));
provider.listen(chosen.port, "127.0.0.1", () => console.log("ready"));
