/**
 * Runs Lua scripts on a Redis. Invariant: a call is one EVALSHA; if the server does not know the script, one EVAL follows.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Cluster, Redis } from 'ioredis'

/** One Lua script, and a second script that runs several calls of the first one in one command. */
export interface Script {
  lua: string
  sha: string
  multi: { lua: string; sha: string }
}

/**
 * Concatenates the files into one script: shared code first, the operation last. The script publishes its messages after all
 * its changes.
 */
export function script(...files: `${'redis' | 'redlock'}/${string}`[]): Script {
  const texts = files.map(text)
  const publishes = files.includes('redis/prelude')
  const verb = publishes
    ? `local function verb()\n${texts.pop()}\nend\nlocal answer = verb()\npublish()\nreturn answer\n`
    : ''
  const lua = texts.join('') + verb
  const multi = `local function one(KEYS, ARGV)\n${lua}\nend\n${MULTI}`
  return { lua, sha: sha1(lua), multi: { lua: multi, sha: sha1(multi) } }
}

const sha1 = (lua: string) => createHash('sha1').update(lua).digest('hex')
/** Reads the text of a script: `redis/acquire` names redis/scripts/acquire.lua. */
function text(file: string): string {
  return readFileSync(new URL(`../${file.replace('/', '/scripts/')}.lua`, import.meta.url), 'utf8')
}
const MULTI = text('redis/multi-call')

export type Run = <T>(
  script: Script,
  read: (answer: unknown) => T,
  keys: string[],
  ...args: (string | number)[]
) => Promise<T>

interface Call {
  keys: string[]
  args: (string | number)[]
  resolve: (answer: unknown) => void
  reject: (error: unknown) => void
}

/** Maximum number of calls in one command: Redis works on the first ones while the client writes the next. */
const MAX_CALLS = 16

/**
 * Returns a function that runs scripts. A single call is sent as one command. While an answer is outstanding, calls of the same
 * turn of the event loop are combined into few commands: a command costs client and server half of the work of an acquire and
 * its release.
 */
export function createRun(redis: Redis | Cluster): Run {
  let unanswered = 0
  let gathered: { script: Script; calls: Call[] } | undefined

  function send<T>(
    { lua, sha }: { lua: string; sha: string },
    read: (answer: unknown) => T,
    keys: string[],
    args: (string | number)[],
  ): Promise<T> {
    unanswered += 1
    return redis.evalsha(sha, keys.length, ...keys, ...args).then(
      (answer) => {
        unanswered -= 1
        return read(answer)
      },
      (error) => {
        unanswered -= 1
        // A server does not know the script after a restart or failover; EVAL loads it.
        if (!(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error
        return redis.eval(lua, keys.length, ...keys, ...args).then(read)
      },
    )
  }

  function flush(): void {
    const now = gathered
    gathered = undefined
    if (now) sendMulti(now.script, now.calls)
  }

  function sendMulti(script: Script, calls: Call[]): void {
    const [{ keys, args, resolve, reject }] = calls as [Call]
    if (calls.length === 1) {
      send(script, resolve, keys, args).catch(reject)
      return
    }
    const all_keys = calls.flatMap((one) => one.keys)
    const all_args = calls.flatMap((one) => one.args)
    const settle = (answers: unknown) => {
      calls.forEach(({ resolve, reject }, n) => {
        const answer = (answers as unknown[])[n]
        if (answer instanceof Error) reject(answer)
        else resolve(answer)
      })
    }
    send(script.multi, settle, all_keys, [keys.length, args.length, ...all_args]).catch((error) => {
      for (const { reject } of calls) reject(error)
    })
  }

  return (script, read, keys, ...args) => {
    if (redis.isCluster || (unanswered === 0 && !gathered)) return send(script, read, keys, args)
    return new Promise((resolve, reject) => {
      const call = { keys, args, resolve, reject }
      const same = gathered?.script === script && gathered.calls.length < MAX_CALLS
      const [first] = gathered?.calls ?? []
      if (same && first?.keys.length === keys.length && first.args.length === args.length) {
        gathered?.calls.push(call)
        return
      }
      // Send calls in their order: a clean-up must come behind the attempt that it undoes.
      if (gathered) flush()
      else process.nextTick(flush)
      gathered = { script, calls: [call] }
    }).then(read)
  }
}
