/**
 * Compilers of schemas that compile each schema once. Of the 655 response schemas of the routes (HEAD repeats GET) 554 are
 * the same problem; compiling every one took most of the start of an API. Invariant: schemas of the same text compile to the
 * same function, whatever the route.
 */
import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import type { FastifyInstance, FastifySerializerCompiler } from 'fastify'

export function compileOnce<Route extends { schema?: unknown }, Compiled>(
  compile: (route: Route) => Compiled,
): (route: Route) => Compiled {
  const compiled = new Map<string, Compiled>()
  return (route) => {
    const text = JSON.stringify(route.schema)
    const made = compiled.get(text) ?? compile(route)
    compiled.set(text, made)
    return made
  }
}

/** Fastify's own compiler. Called when the app has every schema that responses refer to. */
export function compileSerializers(app: FastifyInstance): void {
  const compile = SerializerSelector()(app.getSchemas()) as FastifySerializerCompiler<unknown>
  app.setSerializerCompiler(compileOnce(compile))
}
