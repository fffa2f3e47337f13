/**
 * Two programs sell the seats of one flight: a lease keeps them apart, its token keeps out the one that comes too late.
 * Needs DATABASE_URL and REDIS_URL.
 */
import { createLocks, type Lease, LockBusyError } from 'holdfast/locks'
import { Redis } from 'ioredis'
import postgres from 'postgres'

const { DATABASE_URL = '', REDIS_URL = '', REDIS_PREFIX = '' } = process.env
const sql = postgres(DATABASE_URL, { onnotice() {} })
const redis = new Redis(REDIS_URL)
const locks = createLocks({ redis, prefix: REDIS_PREFIX, ttl_ms: 3_000 })

await sql`CREATE TABLE IF NOT EXISTS flights (id text PRIMARY KEY, seats int NOT NULL, fence bigint NOT NULL DEFAULT 0)`
await sql`INSERT INTO flights (id, seats) VALUES ('LH1', 5) ON CONFLICT (id) DO UPDATE SET seats = 5`

async function sell(lease: Lease): Promise<void> {
  await sql.begin(async (tx) => {
    // The fence first, then the look: what is read here, nobody with an older token changes any more.
    const [flight] = await tx`
      UPDATE flights SET fence = ${lease.token} WHERE id = 'LH1' AND fence <= ${lease.token} RETURNING seats`
    if (!flight) throw new Error('superseded: nothing is written')
    if (flight.seats < 1) throw new Error('sold out')
    await tx`UPDATE flights SET seats = ${flight.seats - 1} WHERE id = 'LH1'`
  })
}

// In line for ten seconds at most; let go at the end, whatever happens.
await locks.withLease('flight:LH1', { wait_ms: 10_000, job: 'booking 1' }, async (lease) => {
  // fetch, timers, streams: give them lease.signal, and they stop when the lease is lost.
  lease.signal.throwIfAborted()
  await sell(lease)
})

const slow = await locks.acquire('flight:LH1', { owner: 'slow' })
const refused = await locks.acquire('flight:LH1').catch((error: unknown) => error)
if (refused instanceof LockBusyError) console.log(`busy: ${refused.holder} has it`)

// The lease ends, here by an operator, and `slow` goes on all the same: as a program does that was frozen meanwhile.
await locks.forceRelease('flight:LH1')
await locks.withLease('flight:LH1', {}, (lease) => sell(lease))
await sell(slow).catch((error: Error) => console.log(error.message))

const [flight] = await sql`SELECT seats FROM flights WHERE id = 'LH1'`
console.log(`${flight?.seats} of 5 seats are left`)

await locks.close()
redis.disconnect()
await sql.end()
