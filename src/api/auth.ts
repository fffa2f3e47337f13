/** API keys. Invariant: without configured keys everyone is the same caller; with them, no route of /api answers without one. */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { Problem } from '../shared/problem.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** who calls: a digest of the API key, or '' when the API is open */
    caller: string
  }
}

const digest = (key: string) => createHash('sha256').update(key).digest()

export function requireKeys(app: FastifyInstance, keys: readonly string[]): void {
  const digests = keys.map(digest)
  app.decorateRequest('caller', '')
  if (digests.length === 0) return
  app.addHook('onRequest', async (request: FastifyRequest) => {
    // A webhook has no key of ours: its signature says who it is from.
    if (request.routeOptions.url === '/api/webhooks/stripe') return
    // The route's own path: the router also finds it by `/%61pi/…` and by an absolute URL.
    if (!(request.routeOptions.url ?? request.url).startsWith('/api/')) return
    const [, bearer] = /^Bearer\s+(\S+)$/i.exec(request.headers.authorization ?? '') ?? []
    const header = request.headers['x-api-key']
    const given = digest(bearer ?? (Array.isArray(header) ? header[0] : header) ?? '')
    // Every key is compared, each in constant time: how long it takes tells nothing.
    const known = digests.reduce((found, key) => timingSafeEqual(key, given) || found, false)
    if (!known) throw new Problem(401, 'unauthorized', 'Send an API key as `Authorization: Bearer …` or `X-Api-Key`.')
    request.caller = given.toString('base64url').slice(0, 22)
  })
}
