/**
 * Checks the method of a request, on the API and on the workers' server. Invariant: an unsupported method of a known path gets
 * a 405 that names the supported methods, and only an unknown path gets a 404; both are sent before a body is read.
 */
import type { FastifyInstance } from 'fastify'
import createRouter from 'find-my-way'
import { Problem } from './problem.ts'

/** The router requires a method, so every path is registered under this one, whatever methods the path has. */
const ANY = 'GET'

/**
 * Collects the paths and methods of routes. Call it before the routes are registered, with the options of the server's
 * router.
 */
export function knowPaths(
  app: FastifyInstance,
  options: { ignoreTrailingSlash?: boolean; maxParamLength?: number } = {},
) {
  const paths = createRouter<createRouter.HTTPVersion.V1>(options)
  const methods = new Map<string, Set<string>>()
  app.addHook('onRoute', ({ url, method }) => {
    // The CORS plugin answers preflights for every path, known or not.
    if (url === '*') return
    const known = methods.get(url)
    const allowed = known ?? new Set()
    for (const one of [method].flat()) allowed.add(one)
    methods.set(url, allowed)
    if (!known) paths.on(ANY, url, () => {}, allowed)
  })
  return {
    /** Registers the check. Call it after the key check, so that a request without a key gets 401 first. */
    refuseUnknown() {
      app.addHook('onRequest', async (request, reply) => {
        if (!request.is404) return
        const [path = '/'] = request.url.split('?')
        const allowed = paths.find(ANY, path)?.store as Set<string> | undefined
        if (!allowed) throw new Problem(404, 'not_found', `There is no ${request.method} ${path}.`)
        const allow = [...allowed].sort().join(', ')
        reply.header('allow', allow)
        throw new Problem(405, 'method_not_allowed', `${path} has no ${request.method}, only ${allow}.`)
      })
    },
  }
}
