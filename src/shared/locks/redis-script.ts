/** Lua scripts on a Redis. The invariant: a verb is one EVALSHA, and one EVAL more where the server has forgotten it. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Cluster, Redis } from 'ioredis'

export interface Script {
  lua: string
  sha: string
}

/** The files, one behind the other, as one script: what they share comes first. */
export function script(...files: string[]): Script {
  const lua = files.map((file) => readFileSync(new URL(`./${file}.lua`, import.meta.url), 'utf8')).join('')
  return { lua, sha: createHash('sha1').update(lua).digest('hex') }
}

export type Run = <T>(
  script: Script,
  read: (answer: unknown) => T,
  keys: string[],
  ...args: (string | number)[]
) => Promise<T>

export function createRun(redis: Redis | Cluster): Run {
  const gather = gatherer(redis)
  let unanswered = 0
  return ({ sha, lua }, read, keys, ...args) => {
    const answer = redis.evalsha(sha, keys.length, ...keys, ...args)
    unanswered += 1
    if (unanswered > 1) gather()
    return answer.then(
      (value) => {
        unanswered -= 1
        return read(value)
      },
      (error) => {
        unanswered -= 1
        // A restarted or failed over server does not know the script; sending it once teaches it.
        if (!(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error
        return redis.eval(lua, keys.length, ...keys, ...args).then(read)
      },
    )
  }
}

/**
 * Commands that are issued in one turn of the event loop leave the process in few writes instead of one write each:
 * half the CPU of a pair of acquire and release where hundreds run at once. 16 at a time, so that Redis already works
 * on the first ones while the next ones are written. A command that is alone is not held up for this.
 * @returns to be called after a command that is not alone
 */
function gatherer(redis: Redis | Cluster): () => void {
  if (redis.isCluster) return () => {}
  const single = redis as Redis
  let corked: Redis['stream'] | undefined
  let count = 0
  const flush = () => {
    corked?.uncork()
    corked = undefined
    count = 0
  }
  return () => {
    count += 1
    if (count >= 16) flush()
    if (corked || !single.stream) return
    corked = single.stream
    corked.cork()
    process.nextTick(flush)
  }
}
