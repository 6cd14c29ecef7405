// An issuer with a few clients. What a person would do in a browser, and what an operator would
// change, is done by POST to /of-the-test/…; everything else is oidc-provider's own.
import http from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, port, settings] = process.argv.slice(2);
const load = createRequire(`${folder}/package.json`);
const fromFolder = async (name) => import(pathToFileURL(load.resolve(name)).href);
const { default: Provider, errors } = await fromFolder('oidc-provider');
const { createLocalJWKSet, jwtVerify } = await fromFolder('jose');

const issuer = `http://127.0.0.1:${port}`;
const given = JSON.parse(settings);
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
const client = (id, grants, more) => ({
  client_id: id, grant_types: grants, response_types: [], redirect_uris: [],
  token_endpoint_auth_method: 'client_secret_basic', client_secret: given.secret, ...more,
});
let lifeS = 3600;
const life = () => lifeS;

const provider = new Provider(issuer, {
  clients: [
    client('machine', ['client_credentials'], { scope: 'runs' }),
    client('asserting', ['client_credentials', EXCHANGE], {
      token_endpoint_auth_method: 'private_key_jwt', client_secret: undefined,
      jwks: given.jwks, token_endpoint_auth_signing_alg: 'RS256',
    }),
    client('person', [DEVICE, 'refresh_token'], {
      token_endpoint_auth_method: 'none', client_secret: undefined,
    }),
  ],
  scopes: ['openid', 'offline_access', 'runs'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => false,
      getResourceServerInfo: (_, resource) => {
        if (resource !== 'https://mlflow.example') throw new errors.InvalidTarget();
        return { scope: 'runs', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: lifeS };
      },
    },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  rotateRefreshToken: true,
  ttl: { AccessToken: life, ClientCredentials: life, DeviceCode: 600, Grant: 86400, IdToken: life, RefreshToken: 86400 },
  jwks: given.issuerJwks,
});

// RFC 8693 as issuers with federated identities do it: the subject's token is of another issuer.
provider.registerGrantType(EXCHANGE, async (ctx) => {
  const { subject_token: token, subject_token_type: type } = ctx.oidc.params;
  if (type !== 'urn:ietf:params:oauth:token-type:jwt') throw new errors.InvalidRequest('type');
  try {
    await jwtVerify(token, createLocalJWKSet(given.jwks), { audience: issuer });
  } catch {
    throw new errors.InvalidGrant('the subject token is not accepted');
  }
  const made = new provider.ClientCredentials({ client: ctx.oidc.client });
  ctx.body = {
    access_token: await made.save(), issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    token_type: 'Bearer', expires_in: made.expiration,
  };
}, ['subject_token', 'subject_token_type', 'audience']);

provider.use(async (ctx, next) => {
  await next();
  if (ctx.oidc?.route === 'device_authorization' && ctx.status === 200) ctx.body.interval = 1;
});

async function confirm(query) {
  const code = await provider.DeviceCode.findByUserCode(query.get('user_code').replaceAll('-', ''));
  const grant = new provider.Grant({ accountId: 'me', clientId: code.clientId });
  grant.addOIDCScope(code.params.scope);
  if (code.params.resource) grant.addResourceScope(code.params.resource, 'runs');
  Object.assign(code, {
    accountId: 'me', grantId: await grant.save(), scope: code.params.scope,
    resource: code.params.resource, authTime: Math.floor(Date.now() / 1000), expiresWithSession: false,
  });
  if (query.get('no')) Object.assign(code, { error: 'access_denied', errorDescription: 'no' });
  await code.save();
}

const usual = provider.callback();
http.createServer(async (request, response) => {
  const url = new URL(request.url, issuer);
  if (!url.pathname.startsWith('/of-the-test/')) return usual(request, response);
  if (url.pathname.endsWith('/confirm')) await confirm(url.searchParams);
  if (url.pathname.endsWith('/life')) lifeS = Number(url.searchParams.get('s'));
  return response.end('{}');
}).listen(Number(port), '127.0.0.1');
