// Prisma's own programs for the tests: one line of JSON in, one out. Its first argument names the folder that holds node_modules.
import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(path.join(process.argv[2], "package.json"));
const NAME = "schema.prisma";
const schemas = require("@prisma/prisma-schema-wasm");

function check({ text }) {
  const files = [[NAME, text]];
  let error = null;
  try {
    schemas.validate(JSON.stringify({ prismaSchema: files, noColor: true }));
  } catch (thrown) {
    error = String(thrown.message ?? thrown);
  }
  const options = { textDocument: { uri: `file:/${NAME}` }, options: { tabSize: 2, insertSpaces: true } };
  const formatted = JSON.parse(schemas.format(JSON.stringify(files), JSON.stringify(options)))[0][1];
  return { error, formatted, models: error ? null : models(files) };
}

// What Prisma has understood: the names of the database and of Prisma.
function models(files) {
  const read = JSON.parse(schemas.get_dmmf(JSON.stringify({ prismaSchema: files, noColor: true }))).datamodel;
  return {
    models: read.models.map((one) => ({ name: one.name, table: one.dbName ?? one.name, docs: one.documentation ?? null,
      fields: one.fields.map((field) => [field.name, field.kind === "object" ? null : field.dbName ?? field.name]) })),
    enums: read.enums.map((one) => ({ name: one.name, type: one.dbName ?? one.name,
      values: one.values.map((value) => value.dbName ?? value.name) })),
  };
}

let loaded = null;

async function engine() {
  const load = async (name) => import(pathToFileURL(require.resolve(name)));
  const bindings = await load("@prisma/schema-engine-wasm/schema_engine_bg");
  const { PrismaPg } = await load("@prisma/adapter-pg");
  const { bindMigrationAwareSqlAdapterFactory, ColumnTypeEnum } = await load("@prisma/driver-adapter-utils");
  // The adapter has no word for PostgreSQL's "char" (18), which the engine asks for: it is a character.
  class Adapter extends PrismaPg {
    async connect() {
      const adapter = await super.connect();
      const io = adapter.performIO.bind(adapter), raw = adapter.queryRaw.bind(adapter);
      let chars = [];
      adapter.performIO = async (query) => {
        const result = await io(query);
        chars = result.fields.map((field) => field.dataTypeID === 18);
        result.fields.forEach((field) => { if (field.dataTypeID === 18) field.dataTypeID = 1042; });
        return result;
      };
      adapter.queryRaw = async (query) => {
        const result = await raw(query);
        chars.forEach((is, at) => { if (is) result.columnTypes[at] = ColumnTypeEnum.Character; });
        return result;
      };
      return adapter;
    }
  }
  globalThis.PRISMA_WASM_PANIC_REGISTRY = { set_message: (message) => { throw new Error(message); } };
  const file = require.resolve("@prisma/schema-engine-wasm/schema_engine_bg").replace(/\.js$/, ".wasm");
  const wasm = new WebAssembly.Instance(new WebAssembly.Module(fs.readFileSync(file)), { "./schema_engine_bg.js": bindings });
  bindings.__wbg_set_wasm(wasm.exports);
  wasm.exports.__wbindgen_start();
  const bound = (url) => bindMigrationAwareSqlAdapterFactory(new Adapter({ connectionString: url }));
  return { bindings, bound };
}

// The engine of the command line, compiled to WebAssembly, with Prisma's adapter for PostgreSQL, for one question.
async function asked(url, content, question) {
  loaded ??= await engine();
  const made = await loaded.bindings.SchemaEngine.new({ datamodels: [[NAME, content]] }, () => {}, loaded.bound(url));
  try {
    return await question(made, [{ path: NAME, content }]);
  } finally {
    made.free();
  }
}

// `prisma migrate deploy` and `resolve`: the folder read as the command line reads it, the rest is the engine's.
async function migrate({ url, folder, command, name }) {
  loaded ??= await engine();
  const read = (...parts) => fs.readFileSync(path.join(folder, ...parts), { encoding: "utf-8" });
  const names = fs.readdirSync(folder, { withFileTypes: true }).filter((one) => one.isDirectory()).map((one) => one.name);
  const migrationsList = { baseDir: folder, lockfile: { path: "migration_lock.toml", content: read("migration_lock.toml") },
    shadowDbInitScript: "", migrationDirectories: names.sort((one, other) => one.localeCompare(other)).map((one) => (
      { path: one, migrationFile: { path: "migration.sql", content: { tag: "ok", value: read(one, "migration.sql") } } })) };
  const content = 'datasource db {\n  provider = "postgresql"\n}\n';
  const made = await loaded.bindings.SchemaEngine.new({ datamodels: [[NAME, content]] }, () => {}, loaded.bound(url));
  try {
    if (command === "deploy") await made.applyMigrations({ migrationsList, filters: { externalTables: [], externalEnums: [] } });
    if (command === "applied") await made.markMigrationApplied({ migrationName: name, migrationsList });
    if (command === "rolled back") await made.markMigrationRolledBack({ migrationName: name });
    return { error: null };
  } catch (thrown) {
    return { error: String(thrown.message ?? thrown) };
  } finally {
    made.free();
  }
}

// `prisma db pull`
async function pull({ url, schemas }) {
  const content = `datasource db {\n  provider = "postgresql"\n${schemas ? `  schemas  = ${JSON.stringify(schemas)}\n` : ""}}\n`;
  const how = { baseDirectoryPath: "/", force: true, compositeTypeDepth: 0, namespaces: schemas ?? null };
  const found = await asked(url, content, (made, files) => made.introspect({ schema: { files }, ...how }));
  return { text: found.schema.files[0].content };
}

// `prisma migrate diff --from-config-datasource --to-schema --script`: what Prisma would change in the database.
async function diff({ url, text, external }) {
  const how = { script: true, exitCode: true, filters: { externalTables: external, externalEnums: [] }, shadowDatabaseUrl: null };
  const found = await asked(url, text, (made, files) => made.diff({
    from: { tag: "schemaDatasource", files, configDir: "/" }, to: { tag: "schemaDatamodel", files }, ...how }));
  return { code: found.exitCode, script: found.stdout };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = await { check, pull, diff, migrate }[request.what](request);
  } catch (thrown) {
    answer = { failed: String(thrown.stack ?? thrown) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
