/**
 * API keys. Invariant: with API_KEYS, no route of /api and none that is keyed answers without one of them or an admin's;
 * with ADMIN_KEYS, a route for admins answers to nobody else. Keys that are not configured are not asked for: then everyone
 * is the same caller.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Config } from '../shared/config.ts'
import { Problem } from '../shared/problem.ts'

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

const digest = (key: string) => createHash('sha256').update(key).digest()

export function requireKeys(app: FastifyInstance, config: Pick<Config, 'api_keys' | 'admin_keys'>): void {
  const keys = config.api_keys.map(digest)
  const admins = config.admin_keys.map(digest)
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
    const given = digest(key)
    // Every key is compared, each in constant time: how long it takes tells nothing.
    const known = (list: Buffer[]) => list.reduce((found, one) => timingSafeEqual(one, given) || found, false)
    const [user, admin] = [known(keys), known(admins)]
    if (user || admin) request.caller = given.toString('base64url').slice(0, 22)
    else if (keys.length > 0) throw unauthorized()
    if (!route.admin || admin || admins.length === 0) return
    throw key === '' ? unauthorized() : forbidden()
  })
}

const unauthorized = () =>
  new Problem(401, 'unauthorized', 'Send an API key as `Authorization: Bearer …` or `X-Api-Key`.')
export const forbidden = () => new Problem(403, 'admin_required', 'This needs one of the keys in ADMIN_KEYS.')
