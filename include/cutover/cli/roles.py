"""The commands ``roles``: Airflow's roles and their members, from the plan's people."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.accounts import roles
from include.cutover.accounts.roles import Found
from include.cutover.cli.options import PlanName
from include.cutover.people.roles import DAGS, ROLES, Accounts, persons, role_name
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan

DONE, DIFFERS = 0, 1

console = Console(highlight=False)
app = typer.Typer(help="Roles in Airflow, from the plan's people.", no_args_is_help=True)


@app.command()
def apply(plan: PlanName) -> None:
    """Create the plan's roles with exactly their rights, and assign them to the plan's people.

    It needs Airflow's metadata database. It does not create accounts; it lists the people who have none. Running it again
    changes nothing.

    Exit status: 0 all roles are assigned; 1 a person has no account; 2 it could not run.
    """
    wanted = load_plan(plan)
    raise typer.Exit(_print_roles(wanted, roles.apply(Accounts.of([wanted]))))


@app.command()
def show(plan: PlanName) -> None:
    """Show the members and rights of each role, and all differences from the plan.

    Exit status: 0 as in the plan; 1 something differs; 2 it could not run.
    """
    wanted = load_plan(plan)
    raise typer.Exit(_print_roles(wanted, roles.look(Accounts.of([wanted]))))


def _print_roles(plan: Plan, found: Found) -> int:
    console.print(f"[bold]{escape(plan.application)}[/]")
    for role, members in persons(plan.people).items():
        for person in members:
            account = f"id {found.ids[person.user]}" if person.user in found.ids else "no account"
            console.print(f"  {role:14}{escape(person.name)} ({escape(person.user)}), {account}", soft_wrap=True)
    console.print(f"\n  {'DAG':32}" + "".join(f"{role:14}" for role in ROLES))
    for verb, starters in DAGS.items():
        may = "".join(f"{'starts' if role in starters else 'reads':14}" for role in ROLES)
        console.print(f"  {f'{verb}_{plan.name}':32}{may}", soft_wrap=True)
    console.print(f"\n  Roles in Airflow: {', '.join(role_name(plan.name, role) for role in ROLES)}", soft_wrap=True)
    for user, others in found.others.items():
        if others:
            text = f"  {user} also has {', '.join(others)}, with the rights of these roles"
            console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)
    differences = found.differs(Accounts.of([plan]))
    for difference in differences:
        console.print(f"[red]  {escape(difference)}[/]", soft_wrap=True)
    if differences:
        console.print("\nCreate the missing accounts, then run 'roles apply'.", soft_wrap=True)
    return DIFFERS if differences else DONE
