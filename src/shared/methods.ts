/**
 * Which methods a path has, on every HTTP server of ours. Invariant: a method that a known path does not have is a 405
 * that names those it has, and only a path that no route has is a 404; both before a body is read.
 */
import type { FastifyInstance } from 'fastify'
import createRouter from 'find-my-way'
import { Problem } from './problem.ts'

/** Any: the router needs one, and here a path is found whatever its method. */
const ANY = 'GET'

/** To be called before the routes are registered. `options`: those of the server's own router. */
export function knowPaths(
  app: FastifyInstance,
  options: { ignoreTrailingSlash?: boolean; maxParamLength?: number } = {},
) {
  const paths = createRouter<createRouter.HTTPVersion.V1>(options)
  const methods = new Map<string, Set<string>>()
  app.addHook('onRoute', ({ url, method }) => {
    // CORS preflights are answered for every path, known or not.
    if (url === '*') return
    const known = methods.get(url)
    const allowed = known ?? new Set()
    for (const one of [method].flat()) allowed.add(one)
    methods.set(url, allowed)
    if (!known) paths.on(ANY, url, () => {}, allowed)
  })
  return {
    /** To be called after other hooks that refuse: those of keys come first. */
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
