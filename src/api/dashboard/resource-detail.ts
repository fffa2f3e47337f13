/**
 * `GET /api/dashboard/resources/{type}/{id}`: what an operator needs to see of one resource. Invariant: a part that cannot be
 * read is null, never empty, and the other parts are still shown.
 */
import type { Client } from '../../shared/db/client.ts'
import type { Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import { withTimeout } from '../../shared/timeout.ts'
import { problemResponses, response } from '../http/responses.ts'
import { ResourceParams, refOf } from '../http/schemas.ts'
import { iso, isoOrNull } from '../http/timestamps.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { lockToResponse } from '../routes/locks.ts'
import { resourceById, resourceNotFound, resourceView } from '../routes/resource-view.ts'
import { readMovements } from '../routes/restock.ts'
import { LIMIT_MS, type Read } from './reads.ts'
import { readBookings, readPurchases, readQueue, readStock } from './resource-queries.ts'
import { MOVEMENTS, ResourceDetailSchema } from './resource-schema.ts'

const schema = {
  operationId: 'getDashboardResource',
  tags: ['operating'],
  summary: 'Get a resource with its queue, lock, stock over time, ledger, purchases and bookings',
  description: 'A part that cannot be read within its time limit is null; 503 when the resource itself cannot be read.',
  params: ResourceParams,
  response: { 200: response(ResourceDetailSchema, 'The resource'), ...problemResponses(400, 404) },
}

export interface ResourceDetailOptions {
  read: Read
  locks: Pick<Locks, 'inspect'>
  log: Log
}

export async function resourceDetailRoutes(app: TypedApp, options: ResourceDetailOptions): Promise<void> {
  app.get('/api/dashboard/resources/:type/:id', { schema }, async (request) => {
    const ref = refOf(request.params)
    return await readDetail(ref, options)
  })
}

/**
 * Reads all parts at once. Postgres answers them in this order: those that read the ledger come last, so that a statement that
 * waits for the longest table holds up no other part. @throws Problem 404, UnavailableError
 */
async function readDetail(ref: string, { read, locks, log }: ResourceDetailOptions) {
  const orNull = async <T>(name: string, result: Promise<T>): Promise<T | null> => {
    try {
      return await result
    } catch (error) {
      log.debug({ error, part: name }, 'part of a resource could not be read')
      return null
    }
  }
  const part = <T>(name: string, query: (client: Client) => Promise<T>) => orNull(name, read(query))
  const [[resource], lock, queue, bookings, purchases, movements, stock] = await Promise.all([
    read((client) => resourceById(client, { id: ref })),
    orNull('lock', withTimeout(locks.inspect(ref), LIMIT_MS)),
    part('queue', (client) => readQueue(client, ref)),
    part('bookings', (client) => readBookings(client, ref)),
    part('purchases', (client) => readPurchases(client, ref)),
    part('movements', (client) => readMovements(client, ref, MOVEMENTS)),
    part('stock', (client) => readStock(client, ref)),
  ])
  if (!resource) throw resourceNotFound(ref)
  return {
    resource: resourceView(resource),
    queue: queue && { ...queue, head: queue.head && { ...queue.head, since: iso(queue.head.since) } },
    lock: lock && lockToResponse(lock),
    stock: stock?.map((one) => ({ ...one, at: iso(one.at) })) ?? null,
    movements,
    purchases: purchases?.map(({ created_at, ...one }) => ({ ...one, at: iso(created_at) })) ?? null,
    bookings: bookings?.map((one) => ({ ...one, from: iso(one.from), to: isoOrNull(one.to) })) ?? null,
  }
}
