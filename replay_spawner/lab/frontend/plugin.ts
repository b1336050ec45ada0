/** The plugin: what this extension does in JupyterLab, each part where what it needs is there. */
import { Activity } from "./activity";
import { Addresses } from "./addresses";
import { Ending } from "./ending";
import type {
  Application,
  AppUtils,
  CommandPalette,
  CoreUtils,
  MainMenu,
  MainMenuModule,
  Plugin,
  Services,
} from "./jupyterlab";
import { Server } from "./server";
import { complain, sharedModule, type ShareScope } from "./shared";

const HOME = "replay:home";
/** In the File menu, below what the hub's own extension adds. */
const MENU_RANK = 110;

function offerHome(application: Application, open: () => void, menu?: MainMenu, palette?: CommandPalette): void {
  application.commands.addCommand(HOME, {
    label: "Replay: home",
    caption: "Open Replay's home, which shows this session, in another tab",
    execute: open,
  });
  palette?.addItem({ command: HOME, category: "Replay" });
  menu?.fileMenu.addGroup([{ command: HOME }], MENU_RANK);
}

/** Never rejects: what the application does not share is left out. */
export async function sessionPlugin(scope: ShareScope): Promise<Plugin> {
  const [services, appUtils, menus, coreUtils] = await Promise.all([
    sharedModule<Services>(scope, "@jupyterlab/services"),
    sharedModule<AppUtils>(scope, "@jupyterlab/apputils"),
    sharedModule<MainMenuModule>(scope, "@jupyterlab/mainmenu"),
    sharedModule<CoreUtils>(scope, "@jupyterlab/coreutils"),
  ]);
  const addresses = new Addresses(coreUtils);

  const start = async (application: Application, found: ReadonlyMap<unknown, unknown>): Promise<void> => {
    if (!services?.ServerConnection) {
      return;
    }
    const server = new Server(services.ServerConnection, application.serviceManager.serverSettings);
    const activity = new Activity(server, () => ending.answer());
    const ending = new Ending(server, appUtils?.Notification, () => activity.stay(), (session) => addresses.work(session));
    const open = (): void => {
      window.open(addresses.home(ending.session), "_blank", "noopener");
    };
    offerHome(
      application,
      open,
      found.get(menus?.IMainMenu) as MainMenu | undefined,
      found.get(appUtils?.ICommandPalette) as CommandPalette | undefined,
    );
    await ending.watch(); // first, so that the end that was known before the page was opened is known as such
    activity.watch();
  };

  const optional = [menus?.IMainMenu, appUtils?.ICommandPalette].filter((token) => token !== undefined);
  return {
    id: "replay-session:session",
    description: "When this session ends, and whether it is used.",
    autoStart: true,
    optional,
    activate: (application, ...services) => {
      const found = new Map(optional.map((token, position) => [token, services[position] ?? undefined]));
      start(application, found).catch((error: unknown) => complain("the session's extension does not work here", error));
    },
  };
}
