/** Lua scripts on a Redis. The invariant: a verb is one EVALSHA, and one EVAL more where the server has forgotten it. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Cluster, Redis } from 'ioredis'

/** One Lua text, and the same for several calls of it in one command. */
export interface Script {
  lua: string
  sha: string
  multi: { lua: string; sha: string }
}

/**
 * The files, one behind the other, as one script: what they share comes first, the verb last. What a verb tells others is
 * published after all its changes.
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
/** `redis/acquire` is the text of redis/scripts/acquire.lua. */
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

/** So many calls at most go in one command: Redis works on the first ones while the next ones are put together. */
const MAX_CALLS = 16

/**
 * A call is one command when it is alone. What is called in one turn of the event loop while an answer is outstanding
 * goes as few commands: half the work of a pair of acquire and release, for both sides, is what a command costs.
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
        // A restarted or failed over server does not know the script; sending it once teaches it.
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
      // What is called first is sent first: who takes back an attempt must come behind it.
      if (gathered) flush()
      else process.nextTick(flush)
      gathered = { script, calls: [call] }
    }).then(read)
  }
}
