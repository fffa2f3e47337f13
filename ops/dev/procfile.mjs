/**
 * Reads the Procfile, runs its processes and prints their output.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { startChild } from './child-process.mjs'
import { ROOT } from './install.mjs'

const COLOURS = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94]

/** Returns the number of processes of each Procfile line: one, or N for `name=N`. */
export function readProcfile({ words, refuse }) {
  const lines = readFileSync(join(ROOT, 'Procfile'), 'utf8').matchAll(/^([\w-]+):\s*(.+)$/gm)
  const counts = new Map(Array.from(lines, ([, name, command]) => [name, { command, count: 1 }]))
  for (const word of words) {
    const [, name, count] = /^([\w-]+)=(\d{1,2})$/.exec(word) ?? []
    const line = counts.get(name)
    if (!line) return refuse(`cannot read "${word}": say NAME=COUNT, where NAME is ${[...counts.keys()].join(' or ')}`)
    line.count = Number(count)
  }
  return counts
}

/**
 * Returns the words of `npm run NAME` without npm and the shell, so that the pid is that of the process itself. Scripts
 * of long-running processes begin with `exec`: npm passes its signals to the shell, which does not pass them on unless
 * `exec` has replaced it by the process.
 */
export function wordsOf(command) {
  const [, name] = /^npm run ([\w:-]+)$/.exec(command) ?? []
  const scripts = name ? JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).scripts : {}
  const line = ((name && scripts[name]) || command).replace(/^exec /, '')
  if (/[^\w\s./:=@-]/.test(line)) return ['sh', '-c', line]
  const words = line.trim().split(/\s+/)
  return words[0] === 'node' ? [process.execPath, ...words.slice(1)] : words
}

/**
 * Starts a child in a separate group, so that a terminal's Ctrl-C does not reach it. Its output goes line by line to
 * `log`.
 * @see startChild
 */
export function startLogged(words, env, log) {
  const child = startChild(words, { cwd: ROOT, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
  for (const stream of [child.process.stdout, child.process.stderr]) {
    let rest = ''
    stream.setEncoding('utf8').on('data', (text) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) log(line)
    })
    stream.on('end', () => rest && log(rest))
  }
  return child
}

/** Returns a function that prints lines after a name, on a terminal in the name's colour. */
export function logger(label, index) {
  const colour = process.stdout.isTTY && !process.env.NO_COLOR
  const prefix = `${label.padEnd(8)} | `
  const shown = colour ? `\x1b[${COLOURS[index % COLOURS.length]}m${prefix}\x1b[0m` : prefix
  return (line) => process.stdout.write(`${shown}${line}\n`)
}
