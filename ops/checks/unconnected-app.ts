/**
 * The API's Fastify instance without any server, for what the routes say rather than do: openapi.json, and requests that a
 * schema refuses. Invariant: a handler that is reached all the same fails.
 */
import type { FastifyInstance } from 'fastify'
import pino from 'pino'
import { buildApp, type RouteOptions } from '../../src/api/app.ts'
import { createMetrics } from '../../src/shared/metrics.ts'

/** What Fastify itself reads of a plugin's options. */
const OF_FASTIFY = new Set<string | symbol>(['prefix', 'logLevel', 'logSerializers'])

/** Options of a route: each is a function that throws. */
const absent = (route: string | symbol) =>
  new Proxy(
    {},
    {
      get(_options, name) {
        if (OF_FASTIFY.has(name)) return undefined
        return () => {
          throw new Error(`${String(name)} of ${String(route)} was used, and there is no server here`)
        }
      },
    },
  )

/** With the lab, as outside production. `trace` is called before the routes are registered. */
export const buildUnconnectedApp = (trace = async (_app: FastifyInstance) => {}) =>
  buildApp({
    config: { api_keys: [], admin_keys: [], rate_limit: undefined, cors_origins: [], redis_prefix: '' },
    rates: undefined,
    log: pino({ enabled: false }),
    health: { metrics: createMetrics(), breakers: [], checks: {}, stuckReason: () => undefined, stopping: () => false },
    routes: new Proxy({} as RouteOptions, { get: (_routes, name) => absent(name) }),
    trace,
  })
