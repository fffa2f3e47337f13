/**
 * The API's Fastify instance without Postgres and Redis, for openapi.json and for requests that a schema rejects.
 * Invariant: a handler that is called fails.
 */
import type { FastifyInstance } from 'fastify'
import pino from 'pino'
import { buildApp, type RouteOptions } from '../../src/api/app.ts'
import { createDependencies } from '../../src/shared/dependencies.ts'
import { createMetrics } from '../../src/shared/metrics.ts'

/** Members of a plugin's options that Fastify itself reads. */
const OF_FASTIFY = new Set<string | symbol>(['prefix', 'logLevel', 'logSerializers'])

/** Stands for the options of a route: each member is a function that throws. */
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

/** Builds the app with the lab, as outside production. Calls `trace` before it registers the routes. */
export const buildUnconnectedApp = (trace = async (_app: FastifyInstance) => {}) =>
  buildApp({
    config: { api_keys: [], admin_keys: [], rate_limit: undefined, cors_origins: [], redis_prefix: '' },
    rates: undefined,
    log: pino({ enabled: false }),
    health: {
      metrics: createMetrics(),
      breakers: [],
      dependencies: createDependencies({}),
      stuckReason: () => undefined,
      stopping: () => false,
    },
    routes: new Proxy({} as RouteOptions, { get: (_routes, name) => absent(name) }),
    trace,
  })
