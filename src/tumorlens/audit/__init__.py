"""What is wrong with a folder of images, and fetching the public one."""
