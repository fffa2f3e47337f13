/**
 * API keys. Invariant: with API_KEYS, every route under /api and every keyed route requires a key with the route's scope, or
 * an admin key; with ADMIN_KEYS, an admin route requires an admin key. Without configured keys none is required, and all
 * requests have the same caller.
 */
import { timingSafeEqual } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type ApiKey, digestOf, SCOPES, type Scope } from '../../shared/api-keys.ts'
import type { Config } from '../../shared/config.ts'
import { adminRequired, Problem } from '../../shared/problem.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** a digest of the API key, or '' when the API is open */
    caller: string
  }
  interface FastifyContextConfig {
    /** requires a key of ADMIN_KEYS */
    admin?: boolean
    /** requires a key although it is not under /api */
    keyed?: true
  }
}

/** first segment of a path under /api → scopes; a key needs one of them. Other paths are for admins. */
const NEEDS: Readonly<Record<string, readonly Scope[]>> = {
  resources: ['sell', 'book'],
  purchases: ['sell'],
  bookings: ['book'],
  leases: ['lock'],
  locks: ['lock'],
}
/** The path that, with the paths below it, shows data of every scope, so a key needs all scopes. */
const WHOLE = '/api/dashboard'

type Keys = Pick<Config, 'api_keys' | 'admin_keys'>

/** Returns the key with this digest. It compares every key, each in constant time, so that the duration reveals nothing. */
const findKey = (list: readonly ApiKey[], given: Buffer) =>
  list.reduce<ApiKey | undefined>((found, one) => (timingSafeEqual(one.digest, given) ? one : found), undefined)

/**
 * Returns a check for pages that a browser opens directly, where a key can be sent only as the password of HTTP Basic.
 * Browsers also attach the password to requests that other sites cause, so the check refuses a request that changes something
 * unless it comes from the page itself.
 */
export function requireAdminPassword({ api_keys: keys, admin_keys: admins }: Keys) {
  return async ({ headers, method }: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const [, basic = ''] = /^Basic\s+(\S+)$/i.exec(headers.authorization ?? '') ?? []
    const [, password = ''] = /^[^:]*:(.*)$/s.exec(Buffer.from(basic, 'base64').toString()) ?? []
    const given = digestOf(password)
    const [user, admin] = [findKey(keys, given), findKey(admins, given)]
    // As for routes: without ADMIN_KEYS every API key with full scope is an admin key, and without any keys every caller is an
    // admin.
    if (!admin && (admins.length > 0 || (keys.length > 0 && !user?.unscoped))) {
      reply.header('www-authenticate', 'Basic realm="Holdfast", charset="UTF-8"')
      throw new Problem(401, 'unauthorized', 'Send one of ADMIN_KEYS as the password, with any user name.')
    }
    const site = headers['sec-fetch-site']
    if (method !== 'GET' && method !== 'HEAD' && site !== undefined && site !== 'same-origin') {
      throw new Problem(403, 'cross_site', 'Cross-site request rejected.')
    }
  }
}

export function requireKeys(app: FastifyInstance, config: Keys): void {
  const { api_keys: keys, admin_keys: admins } = config
  app.decorateRequest('caller', '')
  if (keys.length + admins.length === 0) return
  app.addHook('onRequest', async (request: FastifyRequest) => {
    const { url = request.url, config: route } = request.routeOptions
    // The provider sends no API key: the route checks its signature.
    if (url === '/api/webhooks/stripe') return
    // Compare the path that the route was registered with, because the router also matches `/%61pi/…` and absolute URLs.
    if (!url.startsWith('/api/') && !route.keyed) return
    const [, bearer] = /^Bearer\s+(\S+)$/i.exec(request.headers.authorization ?? '') ?? []
    const header = request.headers['x-api-key']
    const key = bearer ?? (Array.isArray(header) ? header[0] : header) ?? ''
    const given = digestOf(key)
    const [user, admin] = [findKey(keys, given), findKey(admins, given)]
    if (user || admin) request.caller = given.toString('base64url').slice(0, 22)
    else if (keys.length > 0) throw unauthorized()
    if (admin) return
    if (route.admin && admins.length > 0) throw key === '' ? unauthorized() : adminRequired()
    const whole = url === WHOLE || url.startsWith(`${WHOLE}/`)
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
    : new Problem(403, 'scope_required', `This route requires a key with the scope ${needs.join(joined)}.`, {
        scopes: needs,
      })
