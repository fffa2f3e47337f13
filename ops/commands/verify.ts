/**
 * `npm run verify`: checks the invariants on DATABASE_URL and prints each with its figure. Exit code 1 if one does not
 * hold.
 */
import { readConfig } from '../../src/shared/config.ts'
import { openDb } from '../../src/shared/db/client.ts'
import { verify } from '../../src/shared/invariants.ts'
import { createLog } from '../../src/shared/log.ts'
import { openLocks } from '../../src/shared/open-locks.ts'
import { openRedis } from '../../src/shared/redis.ts'
import { readCommand, reasonOf } from '../dev/command.mjs'

const USAGE = `
npm run verify     the invariants on DATABASE_URL, or on the database of the npm start that runs here, each with its figure
Exit code 0 when all hold, 1 when one is broken or could not be looked at. 2: the options or the address make no sense.`

const command = readCommand({ name: 'verify', usage: USAGE })
const url = command.address('DATABASE_URL')
const redis_url = command.found('REDIS_URL')
const opened = redis_url === undefined ? undefined : await locksAt(redis_url)
const db = openDb(url, { max: 1, name: 'holdfast-verify', idle_in_transaction_ms: 60_000 })
try {
  const findings = await verify(db.client, opened ? { locks: opened.locks } : {})
  for (const { invariant, looked_at, offenders } of findings) {
    process.stdout.write(`${offenders.length === 0 ? 'ok    ' : 'BROKEN'} ${invariant} (${looked_at} looked at)\n`)
    if (offenders.length > 0) process.stdout.write(`       ${offenders.join(', ')}\n`)
  }
  const broken = findings.filter((finding) => finding.offenders.length > 0).length
  if (!opened) process.stdout.write('skip   no queue is blocked: REDIS_URL is not set, so no lease can be looked at\n')
  process.stdout.write(`verify: ${findings.length - broken} invariants hold, ${broken} broken\n`)
  process.exitCode = broken > 0 ? 1 : 0
} catch (error) {
  process.stderr.write(`verify: ${reasonOf(error)}\n`)
  process.exitCode = 1
} finally {
  await db.close()
  await opened?.close()
}

/** Opens the locks that the environment names, for reading only. */
async function locksAt(redis_url: string) {
  const log = createLog('silent', 'verify')
  const env = { ...process.env, NODE_ENV: undefined, DATABASE_URL: url, REDIS_URL: redis_url }
  const config = valid(() => readConfig(env))
  const redis = openRedis(redis_url, log, { enableOfflineQueue: true, maxRetriesPerRequest: 1 })
  const { locks, close } = await openLocks({ config, redis, log, events: {} })
  return {
    locks,
    async close() {
      await close()
      redis.disconnect()
    },
  }
}

function valid<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    return command.refuse((error as Error).message)
  }
}
