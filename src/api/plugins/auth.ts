/**
 * API keys. Invariant: with API_KEYS, no route of /api and none that is keyed answers without one of them that has the
 * route's scope, or an admin's; with ADMIN_KEYS, a route for admins answers to nobody else. Keys that are not configured
 * are not asked for: then everyone is the same caller.
 */
import { timingSafeEqual } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type ApiKey, digestOf, SCOPES, type Scope } from '../../shared/api-keys.ts'
import type { Config } from '../../shared/config.ts'
import { adminRequired, Problem } from '../../shared/problem.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** who calls: a digest of the API key, or '' when the API is open */
    caller: string
  }
  interface FastifyContextConfig {
    /** for who has one of ADMIN_KEYS */
    admin?: boolean
    /** asks for a key although it is not under /api */
    keyed?: true
  }
}

/** First part of a path under /api → the scopes of which a key needs one. What is not here is for admins. */
const NEEDS: Readonly<Record<string, readonly Scope[]>> = {
  resources: ['sell', 'book'],
  purchases: ['sell'],
  bookings: ['book'],
  leases: ['lock'],
  locks: ['lock'],
}
/** Shows what is behind every scope, so that a key needs all of them. */
const WHOLE = '/api/dashboard'

type Keys = Pick<Config, 'api_keys' | 'admin_keys'>

/** The entry that a digest is of. Every key is compared, each in constant time: how long it takes tells nothing. */
const find = (list: readonly ApiKey[], given: Buffer) =>
  list.reduce<ApiKey | undefined>((found, one) => (timingSafeEqual(one.digest, given) ? one : found), undefined)

/**
 * For pages that a browser opens by itself, where it can send a key only as the password of HTTP Basic. Browsers then send
 * it along with requests that other sites make, so whatever changes something must come from the page itself.
 */
export function requireAdminPassword({ api_keys: keys, admin_keys: admins }: Keys) {
  return async ({ headers, method }: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const [, basic = ''] = /^Basic\s+(\S+)$/i.exec(headers.authorization ?? '') ?? []
    const [, password = ''] = /^[^:]*:(.*)$/s.exec(Buffer.from(basic, 'base64').toString()) ?? []
    const given = digestOf(password)
    const [user, admin] = [find(keys, given), find(admins, given)]
    // Without ADMIN_KEYS whoever may call the API is an admin, and without keys everybody is: as for routes.
    if (!admin && (admins.length > 0 || (keys.length > 0 && !user?.unscoped))) {
      reply.header('www-authenticate', 'Basic realm="Holdfast", charset="UTF-8"')
      throw new Problem(401, 'unauthorized', 'Send one of ADMIN_KEYS as the password, with any user name.')
    }
    const site = headers['sec-fetch-site']
    if (method !== 'GET' && method !== 'HEAD' && site !== undefined && site !== 'same-origin') {
      throw new Problem(403, 'cross_site', 'Another site has sent this.')
    }
  }
}

export function requireKeys(app: FastifyInstance, config: Keys): void {
  const { api_keys: keys, admin_keys: admins } = config
  app.decorateRequest('caller', '')
  if (keys.length + admins.length === 0) return
  app.addHook('onRequest', async (request: FastifyRequest) => {
    const { url = request.url, config: route } = request.routeOptions
    // A webhook has no key of ours: its signature says who it is from.
    if (url === '/api/webhooks/stripe') return
    // The route's own path: the router also finds it by `/%61pi/…` and by an absolute URL.
    if (!url.startsWith('/api/') && !route.keyed) return
    const [, bearer] = /^Bearer\s+(\S+)$/i.exec(request.headers.authorization ?? '') ?? []
    const header = request.headers['x-api-key']
    const key = bearer ?? (Array.isArray(header) ? header[0] : header) ?? ''
    const given = digestOf(key)
    const [user, admin] = [find(keys, given), find(admins, given)]
    if (user || admin) request.caller = given.toString('base64url').slice(0, 22)
    else if (keys.length > 0) throw unauthorized()
    if (admin) return
    if (route.admin && admins.length > 0) throw key === '' ? unauthorized() : adminRequired()
    const whole = url === WHOLE
    const needs = whole || route.keyed || route.admin ? SCOPES : (NEEDS[url.split('/')[2] ?? ''] ?? [])
    const has = (scope: Scope) => user?.scopes.includes(scope)
    if (user && !(whole ? needs.every(has) : needs.some(has))) throw outOfScope(needs, whole ? ' and ' : ' or ')
  })
}

const unauthorized = () =>
  new Problem(401, 'unauthorized', 'Send an API key as `Authorization: Bearer …` or `X-Api-Key`.')
const outOfScope = (needs: readonly Scope[], joined: string) =>
  needs.length === 0
    ? adminRequired()
    : new Problem(403, 'scope_required', `This needs a key with the scope ${needs.join(joined)}.`, { scopes: needs })
