/**
 * Security headers, CORS, API keys and the rate limit. Invariant: only our own pages run our scripts; another origin can read
 * a response only if CORS_ORIGINS names it; and a limit that cannot be counted is not enforced, so that purchases are
 * accepted while Redis is away.
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

export interface SecurityOptions {
  config: Pick<Config, 'api_keys' | 'admin_keys' | 'rate_limit' | 'cors_origins' | 'redis_prefix'>
  /** Redis that stores the counts of the rate limit, with a timeout per command; undefined: no limit */
  rates: Redis | undefined
}

/** Paths without a rate limit: orchestrators poll health, and a browser loads all files of the page at once. */
const UNCOUNTED = new Set(['/livez', '/readyz', '/metrics', '/'])

/** Registers the plugins. The order matters: a refusal must have the headers too, and the rate limit counts by key. */
export async function protect(app: FastifyInstance, { config, rates }: SecurityOptions): Promise<void> {
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
      new Problem(429, 'rate_limited', `More than ${max} requests per second.`, { retry_after: 1 }),
  })
}

/** Returns helmet's headers, computed once: helmet would compute them for every response, and they never differ. */
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
    // TLS ends at a proxy in front of the API, and the proxy decides about HSTS for its host names.
    hsts: false,
    // These headers are obsolete or have no effect here: they would only add bytes to every response.
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
