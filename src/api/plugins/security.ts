/**
 * What stands between a browser or a busy caller and the routes. Invariant: no page but our own runs script from us, no
 * other origin reads an answer unless CORS_ORIGINS names it, and a limit that cannot be counted is not enforced: Redis may
 * be away, and purchases are still taken.
 */
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import cors from '@fastify/cors'
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance } from 'fastify'
import helmet from 'helmet'
import type { Redis } from 'ioredis'
import type { Config } from '../../shared/config.ts'
import { Problem } from '../../shared/problem.ts'
import { requireKeys } from './auth.ts'

export interface ProtectDeps {
  config: Pick<Config, 'api_keys' | 'admin_keys' | 'rate_limit' | 'cors_origins' | 'redis_prefix'>
  /** for the limit's counts, with a time limit a command; undefined: nothing is counted */
  rates: Redis | undefined
}

/** Health is asked by those who restart us, and never refused; a browser asks for the page's files all at once. */
const UNCOUNTED = new Set(['/livez', '/readyz', '/metrics', '/'])

/** In this order: a refusal has the headers too, and the limit is of a key. */
export async function protect(app: FastifyInstance, { config, rates }: ProtectDeps): Promise<void> {
  const headers = await headersForBrowsers()
  app.addHook('onRequest', async (_request, reply) => {
    reply.headers(headers)
  })
  if (config.cors_origins.length > 0) {
    await app.register(cors, {
      origin: [...config.cors_origins],
      methods: ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'],
      exposedHeaders: ['ETag', 'Location', 'Retry-After', 'Preference-Applied', 'Idempotent-Replayed'],
      maxAge: 600,
    })
  }
  requireKeys(app, config)
  const { rate_limit: max } = config
  if (max === undefined || rates === undefined) return
  await app.register(rateLimit, {
    max,
    timeWindow: 1_000,
    redis: rates,
    nameSpace: `${config.redis_prefix}rate:`,
    skipOnError: true,
    enableDraftSpec: true,
    allowList: ({ routeOptions: { url } }) =>
      url !== undefined && (UNCOUNTED.has(url) || url.startsWith('/dashboard/')),
    keyGenerator: ({ caller, ip }) => caller || ip,
    errorResponseBuilder: () =>
      new Problem(429, 'rate_limited', `More than ${max} requests a second.`, { retry_after: 1 }),
  })
}

/** Helmet's headers, which it would work out anew for every answer. They are the same for all of them. */
async function headersForBrowsers(): Promise<Record<string, string>> {
  const response = new ServerResponse(new IncomingMessage(new Socket()))
  const write = helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'self'"],
        baseUri: ["'none'"],
        formAction: ["'none'"],
        frameAncestors: ["'none'"],
        objectSrc: ["'none'"],
        imgSrc: ["'self'", 'data:'],
        // Swagger UI writes style attributes.
        styleSrc: ["'self'", "'unsafe-inline'"],
      },
    },
    // TLS ends at a proxy, and which of its names are on TLS for good is the proxy's to say.
    hsts: false,
    // For browsers and plugins that are gone, or of no meaning here: bytes of every answer.
    dnsPrefetchControl: false,
    originAgentCluster: false,
    xDownloadOptions: false,
    xPermittedCrossDomainPolicies: false,
    xXssProtection: false,
  })
  await new Promise<void>((resolve, reject) => {
    write(response.req, response, (error?: unknown) => (error ? reject(error) : resolve()))
  })
  return Object.fromEntries(Object.entries(response.getHeaders()).map(([name, value]) => [name, String(value)]))
}
