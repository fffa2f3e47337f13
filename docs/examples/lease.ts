/**
 * Two programs sell the seats of one flight: a lease excludes one of them, its token refuses the one that writes too late.
 * Needs DATABASE_URL and REDIS_URL.
 */
import { createLocks, type Lease, LockBusyError } from 'holdfast/locks'
import { Redis } from 'ioredis'
import postgres from 'postgres'

const { DATABASE_URL = '', REDIS_URL = '', REDIS_PREFIX = '' } = process.env
const sql = postgres(DATABASE_URL, { onnotice() {} })
const redis = new Redis(REDIS_URL)
const locks = createLocks({ redis, prefix: REDIS_PREFIX, ttl_ms: 3_000 })

await sql`CREATE TABLE IF NOT EXISTS flights (id text PRIMARY KEY, seats int NOT NULL, fencing_token bigint NOT NULL DEFAULT 0)`
await sql`INSERT INTO flights (id, seats) VALUES ('LH1', 5) ON CONFLICT (id) DO UPDATE SET seats = 5`

async function sell(lease: Lease): Promise<void> {
  await sql.begin(async (tx) => {
    // The token is raised first: no holder with an older token can change what is read here.
    const [flight] = await tx`
      UPDATE flights SET fencing_token = ${lease.token}
      WHERE id = 'LH1' AND fencing_token <= ${lease.token} RETURNING seats`
    if (!flight) throw new Error('superseded: nothing is written')
    if (flight.seats < 1) throw new Error('sold out')
    await tx`UPDATE flights SET seats = ${flight.seats - 1} WHERE id = 'LH1'`
  })
}

// Waits for ten seconds at most; always released at the end.
await locks.withLease('flight:LH1', { wait_ms: 10_000, job: 'booking 1' }, async (lease) => {
  // fetch, timers, streams: pass them lease.signal, and they stop when the lease is lost.
  lease.signal.throwIfAborted()
  await sell(lease)
})

const slow = await locks.acquire('flight:LH1', { owner: 'slow' })
const refused = await locks.acquire('flight:LH1').catch((error: unknown) => error)
if (refused instanceof LockBusyError) console.log(`busy: ${refused.holder} has it`)

// An operator ends the lease, and `slow` continues all the same, like a program that was frozen in the meantime.
await locks.forceRelease('flight:LH1')
await locks.withLease('flight:LH1', {}, (lease) => sell(lease))
await sell(slow).catch((error: Error) => console.log(error.message))

const [flight] = await sql`SELECT seats FROM flights WHERE id = 'LH1'`
console.log(`${flight?.seats} of 5 seats are left`)

await locks.close()
redis.disconnect()
await sql.end()
