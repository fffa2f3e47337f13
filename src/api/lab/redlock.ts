/**
 * Redlock over five private Redis servers: a lock needs three of them. Invariant: one demonstration runs at a time, and all
 * concurrent requests share its outcome; its servers end when the demonstration ends or the API stops.
 */
import Type from 'typebox'
import { createRedlock } from '../../shared/locks/redlock/locks.ts'
import { stopping as ending, Problem } from '../../shared/problem.ts'
import { problemResponses, response } from '../http/responses.ts'
import { Nullable } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { startRedisServers } from './private-redis.ts'
import { Duration, KEYED, Message, Success, since, TAGS } from './response-shapes.ts'

const SERVERS = 5
const QUORUM = 3
/** Number of stopped servers at each step. */
const STOPPED = [0, 2, 3]
/** TTL of the lock, in milliseconds: long compared with the response time of five servers on one machine. */
const TTL_MS = 2_000

const Step = Type.Object({
  running: Type.Integer(),
  stopped: Type.Integer(),
  locked: Type.Boolean(),
  fencing_token: Nullable(Type.Integer()),
  message: Message,
  duration: Duration,
})
type Step = Type.Static<typeof Step>

async function demonstrate(stopping: AbortSignal): Promise<Step[]> {
  const { servers, close } = await startRedisServers(SERVERS, stopping)
  const locks = createRedlock({ nodes: servers.map((one) => one.redis), ttl_ms: TTL_MS })
  try {
    const steps: Step[] = []
    for (const stopped of STOPPED) {
      await Promise.all(servers.slice(0, stopped).map((one) => one.stop()))
      const started_ms = performance.now()
      const at = { running: SERVERS - stopped, stopped }
      try {
        const lease = await locks.acquire('lab:quorum')
        steps.push({
          ...at,
          locked: true,
          fencing_token: lease.token,
          message: 'A majority has granted the lock',
          duration: since(started_ms),
        })
        await lease.release()
      } catch (error) {
        const { message } = error as Error
        steps.push({ ...at, locked: false, fencing_token: null, message, duration: since(started_ms) })
      }
    }
    stopping.throwIfAborted()
    return steps
  } finally {
    await locks.close()
    await close()
  }
}

export function redlockRoutes(app: TypedApp): void {
  const stopping = new AbortController()
  let running: Promise<Step[]> | undefined
  app.door.onDrain(() => stopping.abort())
  app.addHook('preClose', async () => {
    await running?.catch(() => {})
  })

  app.post(
    '/demo/redlock',
    {
      config: KEYED,
      schema: {
        operationId: 'labRedlock',
        tags: TAGS,
        summary: 'Redlock on five Redis: locks with two stopped, refuses with three stopped',
        description: 'Starts five private redis-server processes and stops them one after the other. Takes no body.',
        response: {
          200: response(
            Type.Object({
              success: Success,
              servers: Type.Integer({ examples: [SERVERS] }),
              quorum: Type.Integer({ examples: [QUORUM] }),
              steps: Type.Array(Step),
              duration: Duration,
            }),
            'The outcome of each step',
          ),
          ...problemResponses(400, 413, 415, missing),
        },
      },
    },
    async () => {
      const started_ms = performance.now()
      running ??= demonstrate(stopping.signal).finally(() => {
        running = undefined
      })
      const steps = await running.catch((error) => {
        throw stopping.signal.aborted ? ending() : error
      })
      const success = steps.every((step) => step.locked === step.running >= QUORUM)
      return { success, servers: SERVERS, quorum: QUORUM, steps, duration: since(started_ms) }
    },
  )
}

const missing = new Problem(503, 'redis_server_missing', 'redis-server is not installed, or does not start here.')
